"""What was decided for a model: which units run in integers, and why others do not.

A plan is remembered for the very same model, samples and options, so that a second run decides the
same without timing, and can be written to a file, edited, and applied again:

    {"method": "auto",
     "nodes": {"conv_1": "integers", "conv_2": "float: it costs too much accuracy"},
     "noise": {"conv_1": 1.2e-05},
     "recovered": {"bias correction": ["conv_1"], "rounding": []}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxopt.errors import SpecError

LAYOUT = 8
"""Another number where what is remembered of a plan changes."""

INTEGERS = "integers"
FLOAT = "float: "


@dataclass
class Plan:
    """What was decided.

    Attributes:
        method: How ranges of activations are chosen.
        chosen: Units that run in integers.
        floats: Units that stay in float, and why.
        noise: Noise that units cause alone, where it was measured.
        recovered: Units that each step that wins accuracy back was kept for.
    """

    method: str = "auto"
    chosen: set[str] = field(default_factory=set)
    floats: dict[str, str] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    recovered: dict[str, frozenset[str]] = field(default_factory=dict)

    def leave(self, names: set[str], reason: str) -> None:
        """Take units out of the plan; the first reason stays."""
        for name in sorted(names & self.chosen):
            self.chosen.discard(name)
            self.floats[name] = reason

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, sorted."""
        nodes = dict.fromkeys(self.chosen, INTEGERS)
        nodes |= {name: FLOAT + why for name, why in self.floats.items()}
        return {
            "method": self.method,
            "nodes": dict(sorted(nodes.items())),
            "noise": dict(sorted(self.noise.items())),
            "recovered": {step: sorted(names) for step, names in self.recovered.items()},
        }

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> Plan:
        """Return the plan that `to_dict` made the values of."""
        nodes = held["nodes"]
        chosen = {name for name, what in nodes.items() if what == INTEGERS}
        floats = {n: what.removeprefix(FLOAT) for n, what in nodes.items() if n not in chosen}
        steps = {step: frozenset(names) for step, names in held.get("recovered", {}).items()}
        return cls(held["method"], chosen, floats, dict(held.get("noise", {})), steps)


def read(path: str) -> Plan | None:
    """Return the plan in a file, None if there is no file.

    Raises:
        SpecError: It is not one.
    """
    try:
        return Plan.from_dict(json.loads(Path(path).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
        raise SpecError(f"recipe {path} is not one that quant wrote: {e}") from e


def write(path: str, plan: Plan) -> None:
    """Write a plan to a file.

    Raises:
        SpecError: It cannot be written.
    """
    try:
        Path(path).write_text(json.dumps(plan.to_dict(), indent=1) + "\n", "utf-8")
    except OSError as e:
        raise SpecError(f"recipe {path} cannot be written: {e.strerror}") from e

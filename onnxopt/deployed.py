"""What onnxruntime makes of a model when it loads it, and how long each of its nodes takes.

Nodes that onnxruntime fuses keep the name of one of their parts, with a suffix of its own:
`original` takes that off, so that what was measured can be traced to the model as it was written.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxopt.runtime import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt.model import Exported

SUFFIX = re.compile(r"(_token_\d+|_nchwc|_fused|_quant)+$")
"""What onnxruntime appends to names of nodes that it rewrites."""

KERNEL = "_kernel_time"
"""How a profile calls the time of a node's kernel, after the node's name."""

RUNS = 24
"""Runs of which each node's shortest counts."""


@dataclass(frozen=True)
class Cost:
    """What one node of the rewritten graph costs.

    Attributes:
        op: Its operator there, `QLinearConv` for a quantized Conv.
        microseconds: Least of the runs; other work on the machine only adds.
    """

    op: str
    microseconds: float


def rewritten(exported: Exported, settings: Settings) -> onnx.ModelProto:
    """Return the graph that onnxruntime runs in place of the model, without its large weights.

    Args:
        exported: The model.
        settings: How it is loaded; always with optimizations here.

    Raises:
        CannotRun: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rewritten.onnx"
        Session(exported, replace(settings, optimize=True, rewritten=str(path)))
        return onnx.load(path, load_external_data=False)


def times(
    models: Sequence[Exported], settings: Settings, feed: Mapping[str, Any], runs: int = RUNS
) -> list[dict[str, Cost]]:
    """Return what the nodes of rewritten graphs cost, by name; unnamed ones are left out.

    Args:
        models: The models; they are run in turn, so that other work on the machine hits all alike.
        settings: How it is loaded; always with optimizations here.
        feed: One set of inputs.
        runs: How often it is run, after one run that does not count.

    Raises:
        CannotRun: onnxruntime refuses a model, or cannot run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            Session(m, replace(settings, optimize=True, profile=str(Path(folder) / f"profile{i}")))
            for i, m in enumerate(models)
        ]
        for _ in range(runs + 1):
            for session in sessions:
                session.run(feed)
        events = [json.loads(Path(s.profiled()).read_text("utf-8")) for s in sessions]
    return [_costs(e, runs) for e in events]


def _costs(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Cost]:
    """Return the least time of each node in a profile, but for the first run."""
    found: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL) and name != KERNEL:
            name = name.removesuffix(KERNEL)
            found.setdefault(name, []).append(float(event["dur"]))
            ops[name] = str(event["args"]["op_name"])
    return {name: Cost(ops[name], min(t[len(t) // (runs + 1) :])) for name, t in found.items()}


def original(name: str) -> str:
    """Return the name that a node had before onnxruntime rewrote it."""
    return SUFFIX.sub("", name)

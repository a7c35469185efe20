"""What each pass would do to a model: run on a copy, and not proven."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt import cost, registry, settle
from onnxopt.base import Context
from onnxopt.errors import OnnxoptError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxopt.base import Pass
    from onnxopt.job import Progress
    from onnxopt.model import Model


@dataclass(frozen=True)
class Forecast:
    """What one pass would do.

    Attributes:
        name: The pass.
        exact: Whether it keeps outputs as they are.
        edits: How many edits it would make; None where it was not run.
        nodes: By how much the number of nodes would change.
        rules: Edits by rule, the commonest first.
        untouched: What it would leave alone, and why.
        notes: What it wants said.
        reason: Why it was not run, or how it failed; empty if it ran.
    """

    name: str
    exact: bool
    edits: int | None = None
    nodes: int | None = None
    rules: dict[str, int] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reason: str = ""


def forecasts(
    model: Model, target: str, progress: Progress, wanted: Sequence[str] | None = None
) -> Iterator[Forecast]:
    """Run every exact pass that needs no samples, each on what the one before it left.

    Args:
        model: Not changed.
        target: `portable` or `ort-cpu`.
        progress: Told which pass runs.
        wanted: Names of passes; None for all that are installed.
    """
    names = _ordered(list(registry.available() if wanted is None else wanted))
    current, nodes = model.clone(), cost.measure(model.export(), None).nodes
    for number, name in enumerate(names):
        progress(name, number / len(names))
        try:
            item = registry.load(name)
        except OnnxoptError as e:
            yield Forecast(name, True, reason=str(e))
            continue
        if item.calibrated or not item.exact:
            kind = "" if item.exact else "lossy: "
            yield Forecast(name, item.exact, reason=f"{kind}needs calibration data")
            continue
        copy, found = _tried(item, current, target, nodes)
        yield found
        current, nodes = copy, nodes + (found.nodes or 0)


def _tried(item: type[Pass], before: Model, target: str, nodes: int) -> tuple[Model, Forecast]:
    """Run a pass on a copy; return the model to go on with."""
    ids: list[str] = []

    def allow(edit: str) -> bool:
        ids.append(edit)
        return True

    context = Context(target=target, allow=allow, retract=ids.remove)
    copy = before.clone()
    try:
        edits = settle.run(item(), copy, context)
        after = cost.measure(copy.export(), None).nodes
    except Exception as e:  # noqa: BLE001  # a pass may raise anything; `run` would undo it
        return before, Forecast(item.name, True, reason=f"fails: {type(e).__name__}: {e}")
    rules = Counter(edit.partition("@")[0] for edit in ids)
    return copy, Forecast(
        item.name,
        True,
        edits,
        after - nodes,
        dict(rules.most_common()),
        dict(context.untouched),
        list(context.notes),
    )


def _ordered(names: list[str]) -> list[str]:
    """Put passes behind those that they require."""
    done: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in done or name in above or name not in names:
            return
        try:
            required = registry.load(name).requires
        except OnnxoptError:
            required = ()
        for other in required:
            add(other, (*above, name))
        done.append(name)

    for name in names:
        add(name, ())
    return done

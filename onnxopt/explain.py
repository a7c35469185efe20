"""Why rules stood back: the near misses of a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match, rewrite, settle, spec
from onnxopt.base import Context
from onnxopt.bisect import Gate

if TYPE_CHECKING:
    from onnxopt.base import Pass
    from onnxopt.model import Model


@dataclass(frozen=True)
class Miss:
    """A rewrite that was almost made.

    Attributes:
        rule: The rule that stood back.
        node: Where: path and name of the node that it looked at.
        reason: The guard that stopped it.
    """

    rule: str
    node: str
    reason: str


def misses(item: Pass, model: Model, target: str = "portable") -> tuple[list[str], list[Miss]]:
    """Run a pass on a copy, after those that it requires, and collect why its rules stood back.

    Args:
        item: The pass.
        model: Not changed.
        target: `portable` or `ort-cpu`.

    Returns:
        The ids of the edits it makes, and what it did not make although it was close. Of nodes
        that another edit has replaced nothing is said.
    """
    copy, source = model.clone(), model.export().nbytes
    for required in spec.complete((item,))[:-1]:
        required.run(copy, Context(target=target, source_bytes=source))
        copy = copy.clone()
    gate, reasons = Gate(), list[str]()
    before = _places(copy)
    token = match.MISSES.set(reasons)
    try:
        context = Context(target=target, allow=gate, retract=gate.retract, source_bytes=source)
        settle.run(item, copy, context)
    finally:
        match.MISSES.reset(token)
    found = [_parse(reason) for reason in dict.fromkeys(reasons)]
    gone = before - _places(copy)
    kept = [m for m in found if f"{m.rule}@{m.node}" not in gate.made and m.node not in gone]
    return list(gate.made), kept


def _places(model: Model) -> frozenset[str]:
    """Return path and name of each node: what misses name."""
    return frozenset(
        rewrite.edit_id("", path, node)[1:]
        for path, graph in model.graphs()
        for node in graph.nodes
    )


def _parse(reason: str) -> Miss:
    label, _, why = reason.partition(": ")
    rule, _, node = label.partition("@")
    return Miss(rule, node, why)

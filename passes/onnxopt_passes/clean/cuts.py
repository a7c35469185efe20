"""What a Slice takes from each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt_passes.clean import axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_graphsurgeon as gs

ALL = 2**31 - 1
"""An end from here on means the end of the axis: exporters write the largest int32 or int64."""

LAST = 2**63 - 1
"""The largest end that can be written."""

INPUTS = 10
"""Slice takes its numbers as inputs from this opset on."""


@dataclass(frozen=True)
class Cut:
    """The range of one axis, as it is written: negative numbers count from its end."""

    start: int
    end: int
    step: int = 1

    def whole(self, size: int | None) -> bool:
        """Whether it takes all of an axis of that size, in order."""
        if self.step != 1:
            return False
        first = self.start == 0 or (size is not None and self.start <= -size)
        return first and (self.end >= ALL or (size is not None and self.end >= size))


def read(node: gs.Node) -> dict[int, Cut] | None:
    """Return the range that a Slice takes from each axis it names; None if any is not constant.

    Axes count from the front; if a negative one needs an unknown rank, all have to be negative,
    and are returned as they are.
    """
    starts = match.integers(node, 1, "starts")
    ends = match.integers(node, 2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    named = match.integers(node, 3, "axes")
    steps = match.integers(node, 4, "steps")
    if named is None and (match.given(node, 3) or "axes" in node.attrs):
        return None
    if steps is None and match.given(node, 4):
        return None
    named = list(range(len(starts))) if named is None else named
    steps = [1] * len(starts) if steps is None else steps
    rank = axes.rank(node.inputs[0])
    chosen = axes.normal(named, rank)
    if chosen is None and rank is None and all(a < 0 for a in named):
        chosen = named
    if chosen is None or not len(set(chosen)) == len(starts) == len(steps):
        return None
    return {a: Cut(*c) for a, *c in zip(chosen, starts, ends, steps, strict=True)}


def write(graph: gs.Graph, node: gs.Node, cuts: Mapping[int, Cut]) -> None:
    """Make a Slice take these ranges; before opset 10 the steps have to be 1."""
    parts = {
        "starts": [c.start for c in cuts.values()],
        "ends": [min(c.end, LAST) for c in cuts.values()],
        "axes": list(cuts),
    }
    if graph.opset < INPUTS:
        node.attrs.update(parts)
        return
    if any(c.step != 1 for c in cuts.values()):
        parts["steps"] = [c.step for c in cuts.values()]
    name = node.outputs[0].name
    new = [axes.integers(f"{name}.{part}", values) for part, values in parts.items()]
    node.inputs = [node.inputs[0], *new]

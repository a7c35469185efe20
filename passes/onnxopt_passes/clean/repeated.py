"""Ops that undo, repeat or narrow the one before them.

f(f(x)) -> x         for Not, Neg, BitwiseNot
f(f(x)) -> f(x)      for Relu, Abs, Ceil, Floor, Round, Sign
clip(clip(x))        -> Clip(x, max of the lower bounds, min of the upper bounds)

A clip is a Clip with constant bounds, or a Relu, whose lower bound is 0; one of the two is a Clip.
The bounds have to leave a range: where they cross, the order of the clips matters. An infinite
bound is not merged, as a missing one means the largest finite number in some runtimes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BOUNDS_AS_INPUTS = 11
"""Clip takes its bounds as inputs from this opset on."""


@dataclass(frozen=True)
class Range:
    """The bounds of a clip, None where it has none, and their type if they are inputs."""

    low: float | None
    high: float | None
    dtype: np.dtype | None = None


def drop_undone(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace f(f(x)) by x where f is its own inverse."""
    inner = match.producer(node.inputs[0])
    return (
        match.is_op(inner, node.op) and inner is not None and bypass(graph, node, inner.inputs[0])
    )


def drop_repeated(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace f(f(x)) by f(x) where doing it twice changes nothing."""
    return match.is_op(match.producer(node.inputs[0]), node.op) and bypass(
        graph, node, node.inputs[0]
    )


def merge_clips(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one Clip of two clips in a row."""
    inner = match.sole(graph, node.inputs[0], "Clip", "Relu")
    if inner is None or "Clip" not in (inner.op, node.op):
        return False
    first, second = _range(graph, inner), _range(graph, node)
    if first is None or second is None:
        return False
    lows = [v for v in (first.low, second.low) if v is not None]
    highs = [v for v in (first.high, second.high) if v is not None]
    merged = Range(max(lows, default=None), min(highs, default=None), first.dtype or second.dtype)
    if merged.low is not None and merged.high is not None and merged.low > merged.high:
        return False
    if merged.dtype is None and graph.opset >= BOUNDS_AS_INPUTS:
        return False

    out, source = node.outputs[0], inner.inputs[0]
    clip = node if node.op == "Clip" else inner
    match.remove(inner if clip is node else node)
    clip.inputs = [source]
    clip.outputs = [out]
    _bound(graph, clip, merged)
    return True


def _range(graph: gs.Graph, node: gs.Node) -> Range | None:
    """Return the bounds of a clip; None if one is not a finite constant."""
    if node.op == "Relu":
        return Range(0, None)
    bounds: list[float | None] = []
    dtype = None
    for index, name in ((1, "min"), (2, "max")):
        old = graph.opset < BOUNDS_AS_INPUTS
        if name not in node.attrs if old else not match.given(node, index):
            bounds.append(None)
            continue
        value = node.attrs[name] if old else match.scalar(node.inputs[index])
        if not old:
            dtype = shapes.dtype(node.inputs[index]) or dtype
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        bounds.append(value)
    return Range(bounds[0], bounds[1], dtype)


def _bound(graph: gs.Graph, clip: gs.Node, bounds: Range) -> None:
    """Give a Clip that has only its data the bounds."""
    for name, value in (("min", bounds.low), ("max", bounds.high)):
        if graph.opset < BOUNDS_AS_INPUTS:
            if value is not None:
                clip.attrs[name] = float(value)
            continue
        limit: gs.Tensor = ir.Variable("")
        if value is not None:
            limit = ir.Constant(f"{clip.outputs[0].name}.{name}", np.array(value, bounds.dtype))
        clip.inputs = [*clip.inputs, limit]
    if not clip.inputs[-1].name:
        clip.inputs = clip.inputs[:-1]


RULES: tuple[Rule, ...] = (
    Rule("undone", ("Not", "Neg", "BitwiseNot"), drop_undone),
    Rule("repeated", ("Relu", "Abs", "Ceil", "Floor", "Round", "Sign"), drop_repeated),
    Rule("merge_clips", ("Clip", "Relu"), merge_clips),
)
"""In the order in which they are tried."""

"""Min and Max with constants  ->  Relu or Clip, which onnxruntime fuses into the Conv before.

max(x, 0)              ->  Relu(x)
clip(x, 0, +Inf)       ->  Relu(x)
min(max(x, a), b)      ->  Clip(x, a, b)        either way round; Relu is a max with 0

a <= b are finite numbers that do not widen x, of float16, float32 or float64. One bound alone
does not become a Clip: with the other absent it takes infinities for the largest number, which is
also why clip(x, 0) without an upper bound is left alone. Exact: NaN stays NaN in all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MIXED = 8
"""The opset from which on Min and Max broadcast."""

SIX = 6
"""The opset from which on Clip is as it is today, but for where its bounds are."""


def fuse_relu(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a maximum with 0 as a Relu."""
    if node.op == "Max":
        found = _limit(graph, node)
        if found is None or found[1] != 0 or found[2] not in scalars.FLOATS:
            return False
        x = found[0]
    else:
        limits = scalars.bounds(graph, node)
        if graph.opset < SIX or limits != (0.0, math.inf):
            return False
        x = node.inputs[0]
        if scalars.kind(x, *node.inputs[1:]) not in scalars.FLOATS:
            return False
    if match.quantized(x, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    return scalars.finish(graph, node, ir.Node("Relu", node.name, inputs=[x]))


def fuse_clip(graph: gs.Graph, outer: gs.Node) -> bool:
    """Write a minimum of a maximum, or the reverse, as one Clip."""
    if graph.opset < MIXED:
        return False
    second = _limit(graph, outer)
    if second is None:
        return False
    inner = match.producer(second[0])
    if inner is None or not match.is_op(inner, "Max" if outer.op == "Min" else "Min", "Relu"):
        return False
    first = _limit(graph, inner)
    if first is None or (inner.op == "Relu" and outer.op == "Max"):
        return False
    x, dtype = first[0], second[2]
    low, high = (first[1], second[1]) if outer.op == "Min" else (second[1], first[1])
    if dtype not in scalars.FLOATS or (graph.opset < 12 and dtype == np.float64):
        return False
    if match.sole(graph, second[0]) is None:
        return match.miss("others read what is between the two bounds")
    if not -math.inf < low <= high < math.inf:
        return match.miss(f"its bounds are {low:g} and {high:g}")
    if match.quantized(x, outer.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    return _clip(graph, outer, x, low, high, dtype)


def _limit(graph: gs.Graph, node: gs.Node) -> tuple[gs.Tensor, float, np.dtype | None] | None:
    """Return x, the number and the type of a Max or Min of two; of a Relu, which has 0."""
    if node.op == "Relu":
        return node.inputs[0], 0.0, scalars.kind(node.inputs[0])
    if graph.opset < MIXED or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    for x, bound in ((left, right), (right, left)):
        value = scalars.number(bound, x)
        if value is not None and match.constant(x) is None:
            return x, value, scalars.kind(bound)
    return None


def _clip(
    graph: gs.Graph, old: gs.Node, x: gs.Tensor, low: float, high: float, dtype: np.dtype
) -> bool:
    """Put a Clip in the place of a node; bounds were attributes before opset 11."""
    name = old.outputs[0].name
    if graph.opset < 11:
        return scalars.finish(
            graph, old, ir.Node("Clip", old.name, attrs={"min": low, "max": high}, inputs=[x])
        )
    limits = [
        scalars.constant(f"{name}.{which}", value, dtype)
        for which, value in (("min", low), ("max", high))
    ]
    return scalars.finish(graph, old, ir.Node("Clip", old.name, inputs=[x, *limits]))


RULES: tuple[Rule, ...] = (
    Rule("clip", ("Min", "Max"), fuse_clip),
    Rule("relu", ("Max", "Clip"), fuse_relu),
)
"""In the order in which they are tried."""

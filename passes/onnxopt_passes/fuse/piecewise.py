"""LeakyRelu and Elu from what chooses between two functions by the sign of x.

x if x > 0 else x * a                       ->  LeakyRelu(x; a)     the test in any of its forms
max(x, x * a), 0 < a <= 1                   ->  LeakyRelu(x; a)
Relu(x) - a * Relu(-x)                      ->  LeakyRelu(x; a)     as Keras writes PReLU
PRelu(x, a), one slope                      ->  LeakyRelu(x; a)
x if x > 0 else a * (exp(x) - 1)           ->  Elu(x; a)           as JAX writes it, the exponential
                                                                   also of Where(x > 0, 0, x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ABOVE, BELOW = ("Greater", "GreaterOrEqual"), ("Less", "LessOrEqual")


def fuse_uniform_prelu(graph: gs.Graph, prelu: gs.Node) -> bool:
    """Write a PRelu with one slope as a LeakyRelu."""
    if graph.opset < scalars.BROADCASTS:
        return False
    x, slopes = prelu.inputs
    values = match.constant(slopes)
    if values is None or not values.size or values.dtype not in scalars.SINGLE:
        return False
    rank = shapes.dims(x)
    if (values != values.reshape(-1)[0]).any():
        return False
    if values.ndim and (rank is None or len(rank) < values.ndim):
        return match.miss("the rank of its input is not known to be that of its slopes")
    if values.size > 1 and not covers(shapes.dims(x), values.shape):
        return match.miss("its slopes may widen its input")
    return _leaky(graph, prelu, x, float(values.reshape(-1)[0]))


def fuse_max_leaky(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the maximum of x and x * a as a LeakyRelu."""
    if graph.opset < 8 or len(node.inputs) != 2:
        return False
    for x, other in (node.inputs, reversed(node.inputs)):
        maker = match.sole(graph, other, "Mul", "Div")
        scale = scalars.scaled(maker)
        if maker is None or scale is None or scale[0] is not x or not 0 < scale[1] <= 1:
            continue
        if scalars.kind(*maker.inputs) not in scalars.SINGLE:
            return match.miss("it is neither float32 nor float16")
        return _leaky(graph, node, x, scale[1])
    return False


def fuse_where_leaky(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the choice between x and x * a by the sign of x as a LeakyRelu."""
    found = _chosen(graph, node)
    if found is None:
        return False
    x, other = found
    scale = scalars.scaled(match.sole(graph, other, "Mul", "Div"))
    if scale is None or scale[0] is not x:
        return False
    if scalars.kind(x, *node.inputs[1:]) not in scalars.SINGLE:
        return match.miss("it is neither float32 nor float16")
    return _leaky(graph, node, x, scale[1])


def fuse_two_relus(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the difference of two Relus, of x and of -x, as a LeakyRelu."""
    sides = [match.sole(graph, t, "Relu", "Mul", "Div") for t in node.inputs]
    if graph.opset < scalars.BROADCASTS or any(s is None for s in sides):
        return False
    order = (sides, sides[::-1]) if node.op == "Add" else (sides,)
    for upper, scaled in order:
        scale = scalars.scaled(scaled)
        lower = None if scale is None else match.sole(graph, scale[0], "Relu")
        if upper is None or upper.op != "Relu" or lower is None or scale is None:
            continue
        mirrored = scalars.scaled(match.sole(graph, lower.inputs[0], "Neg", "Mul", "Div"))
        x = upper.inputs[0]
        if mirrored is None or mirrored[0] is not x or mirrored[1] != -1:
            continue
        if scalars.kind(x, node.outputs[0]) not in scalars.SINGLE:
            return match.miss("it is neither float32 nor float16")
        return _leaky(graph, node, x, scale[1] if node.op == "Sub" else -scale[1])
    return False


def fuse_where_elu(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the choice between x and a * (exp(x) - 1) by the sign of x as an Elu."""
    found = _chosen(graph, node)
    if found is None:
        return False
    (x, other), slope = found, 1.0
    scale = scalars.scaled(match.sole(graph, other, "Mul"))
    if scale is not None:
        other, slope = scale
    shift = scalars.shifted(match.sole(graph, other, "Sub", "Add"))
    power = None if shift is None or shift[1] != -1 else match.sole(graph, shift[0], "Exp")
    if power is None or not _negative_part(graph, power.inputs[0], x) or not np.isfinite(slope):
        return False
    if scalars.kind(x, *node.inputs[1:]) not in scalars.SINGLE:
        return match.miss("it is neither float32 nor float16")
    if match.quantized(x, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    new = ir.Node("Elu", node.name, {"alpha": float(np.float32(slope))}, [x])
    return scalars.finish(graph, node, new)


def covers(dims: tuple[int | str | None, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether broadcasting with a shape leaves these dimensions as they are."""
    if not shape:
        return True
    if dims is None or len(dims) < len(shape):
        return False
    return all(n in (1, d) for n, d in zip(reversed(shape), reversed(dims), strict=False))


def _chosen(graph: gs.Graph, where: gs.Node) -> tuple[gs.Tensor, gs.Tensor] | None:
    """Return x and what a Where takes for x below 0, where it takes x itself above."""
    condition, yes, no = where.inputs
    for x, other, positive in ((yes, no, True), (no, yes, False)):
        if _signed(graph, condition, x, positive):
            return x, other
    return None


def _signed(graph: gs.Graph, condition: gs.Tensor, x: gs.Tensor, positive: bool) -> bool:
    """Whether a condition is that x is above, or else that it is below, 0."""
    test = match.producer(condition)
    if test is None or not match.is_op(test, *ABOVE, *BELOW) or not match.here(graph, test):
        return False
    left, right = test.inputs
    if left is x:
        return scalars.number(right, x) == 0 and test.op in (ABOVE if positive else BELOW)
    return right is x and scalars.number(left, x) == 0 and test.op in (BELOW if positive else ABOVE)


def _negative_part(graph: gs.Graph, tensor: gs.Tensor, x: gs.Tensor) -> bool:
    """Whether a tensor is x where that is below 0, and whatever it likes elsewhere."""
    if tensor is x:
        return True
    node = match.producer(tensor)
    if node is None or not match.is_op(node, "Where", "Min") or not match.here(graph, node):
        return False
    if node.op == "Min":
        return len(node.inputs) == 2 and any(
            t is x and scalars.number(o, x) == 0 for t, o in (node.inputs, node.inputs[::-1])
        )
    condition, yes, no = node.inputs
    for kept, positive in ((no, True), (yes, False)):
        if kept is x and _signed(graph, condition, x, positive):
            return scalars.number(yes if kept is no else no, x) is not None
    return False


def _leaky(graph: gs.Graph, node: gs.Node, x: gs.Tensor, slope: float) -> bool:
    if not np.isfinite(slope):
        return False
    if match.quantized(x, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    attributes = {"alpha": float(np.float32(slope))}
    new = ir.Node("LeakyRelu", node.name, attrs=attributes, inputs=[x])
    return scalars.finish(graph, node, new)


RULES: tuple[Rule, ...] = (
    Rule("leaky_prelu", ("PRelu",), fuse_uniform_prelu),
    Rule("leaky_max", ("Max",), fuse_max_leaky),
    Rule("leaky_where", ("Where",), fuse_where_leaky),
    Rule("leaky_relus", ("Add", "Sub"), fuse_two_relus),
    Rule("elu_where", ("Where",), fuse_where_elu),
)
"""In the order in which they are tried."""

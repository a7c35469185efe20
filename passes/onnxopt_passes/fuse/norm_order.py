"""Normalisations whose weight is in the factor, in the order that other rules know.

x * g + (b - mean(x) * g)   ->   (x - mean(x)) * g + b        Keras
d * (i * w)                 ->   (d * i) * w                  Flax, and Keras then

i is the inverse of a deviation, 1 / sqrt(mean(..) + eps); w and b are constants. x - mean(x) is
there already, since the variance is made of it. Neither side takes more operations than the other;
the first is more exact on the right, where a mean is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import normal, scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


LAYER_NORM = 17
"""The opset that has LayerNormalization."""


def order_weight(graph: gs.Graph, product: gs.Node) -> bool:
    """Multiply by an inverse deviation first, and by the weight then."""
    for factor, other in (tuple(product.inputs), tuple(product.inputs[::-1])):
        weighted = match.sole(graph, factor, "Mul")
        parts = None if weighted is None else _weighted(graph, weighted)
        if parts is None or match.constant(other) is not None:
            continue
        inverse, weight = parts
        if not _recognised(graph, product, other, weight):
            return match.miss("no rule would know the normalisation then")
        if len(inverse.outputs) != 1 or match.quantized(other, product.outputs[0]):
            return match.miss("its inverse deviation has other readers, or it is quantized")
        name = f"{product.outputs[0].name}.normal"
        scaled = scalars.step(graph, "Mul", name, other, other, inverse)
        return scalars.finish(graph, product, ir.Node("Mul", product.name, {}, [scaled, weight]))
    return False


def _recognised(graph: gs.Graph, product: gs.Node, x: gs.Tensor, weight: gs.Tensor) -> bool:
    """Whether a rule may make one node of it: not so, the order costs a little time."""
    values, dims = match.constant(weight), shapes.dims(x)
    if values is None or not dims or scalars.kind(x) != np.float32:
        return False
    centred = match.is_op(match.producer(x), "Sub")
    if values.ndim > 1:
        return centred
    shifted = match.sole_reader(graph, product.outputs[0], "Add") is not None
    known = graph.opset >= LAYER_NORM or shifted or not centred
    return values.shape == (dims[-1],) and known


def _weighted(graph: gs.Graph, node: gs.Node) -> tuple[gs.Tensor, gs.Tensor] | None:
    """Return i and w of i * w."""
    for inverse, weight in (tuple(node.inputs), tuple(node.inputs[::-1])):
        if match.constant(weight) is not None and _deviation(graph, inverse):
            return inverse, weight
    return None


def _deviation(graph: gs.Graph, inverse: gs.Tensor) -> bool:
    """Whether a tensor is 1 / sqrt(mean(..) + eps)."""
    node = match.producer(inverse)
    held = None if node is None or not match.here(graph, node) else normal.inverted(node)
    root = None if held is None else match.producer(held)
    if root is None or not match.is_op(root, "Sqrt"):
        return False
    shifted = scalars.shifted(match.producer(root.inputs[0]))
    return shifted is not None and match.is_op(match.producer(shifted[0]), "ReduceMean")


def order_mean(graph: gs.Graph, add: gs.Node) -> bool:
    """Subtract a mean before the product instead of after it."""
    for left, right in (tuple(add.inputs), tuple(add.inputs[::-1])):
        product, rest = match.sole(graph, left, "Mul"), match.sole(graph, right, "Sub")
        moved = None if rest is None else match.sole(graph, rest.inputs[1], "Mul")
        if product is None or rest is None or moved is None:
            continue
        found = _factor(product, moved)
        bias = rest.inputs[0]
        if found is None or match.constant(bias) is None:
            continue
        difference, factor = found
        if match.quantized(difference, add.outputs[0]):
            return match.miss("it stands before a QuantizeLinear")
        name = f"{add.outputs[0].name}.product"
        scaled = scalars.step(graph, "Mul", name, left, difference, factor)
        return scalars.finish(graph, add, ir.Node("Add", add.name, {}, [scaled, bias]))
    return False


def _factor(product: gs.Node, moved: gs.Node) -> tuple[gs.Tensor, gs.Tensor] | None:
    """Return x - mean(x) and g of x * g and mean(x) * g."""
    for x, factor in (tuple(product.inputs), tuple(product.inputs[::-1])):
        for mean, other in (tuple(moved.inputs), tuple(moved.inputs[::-1])):
            difference = _difference(x, mean)
            if other is factor and difference is not None:
                return difference, factor
    return None


def _difference(x: gs.Tensor, mean: gs.Tensor) -> gs.Tensor | None:
    """Return x - mean(x) where a node computes it."""
    node = match.producer(mean)
    if node is None or not match.is_op(node, "ReduceMean") or node.inputs[0] is not x:
        return None
    if match.attribute(node, "keepdims", 1) != 1:
        return None
    subs = (n for n in mean.outputs if match.is_op(n, "Sub") and n.inputs[1] is mean)
    return next((n.outputs[0] for n in subs if n.inputs[0] is x), None)


RULES: tuple[Rule, ...] = (
    Rule("norm_weight", ("Mul",), order_weight),
    Rule("norm_mean", ("Add",), order_mean),
)
"""Before those for normalisations."""

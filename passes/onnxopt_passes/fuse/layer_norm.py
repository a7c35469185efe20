"""LayerNormalization from its decomposition.

d = x - mean(x)     d / sqrt(mean(d * d) + eps) * w + b   ->  LayerNormalization(x, w, b)

The means are over the last axes, and w and b are constants of these axes; where there is no w it
is ones. The square may be a Pow or a product, the quotient a Div or a Mul by the Reciprocal, which
onnxruntime does not recognise, and x - mean(x) may be computed twice, as Keras does. From opset 17
on, which has LayerNormalization, and for float32 only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LAYER_NORM = 17
"""The opset that has it."""


@dataclass(frozen=True)
class Normal:
    """(x - mean) / sqrt(variance + eps).

    Attributes:
        last: The node that makes it.
        x: What is normalised.
        first: First of the axes that the means are over, not negative.
        sizes: Sizes of these axes.
        epsilon: What is added to the variance.
    """

    last: gs.Node
    x: gs.Tensor
    first: int
    sizes: tuple[int, ...]
    epsilon: float


def fuse_layer_norm(graph: gs.Graph, root: gs.Node) -> bool:
    """Write a decomposed LayerNormalization as one node."""
    if graph.opset < LAYER_NORM:
        return False
    found = _normal(graph, root)
    if found is None:
        return False
    if scalars.kind(found.x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    last, weight = _taken(graph, found.last, found.sizes, "Mul")
    last, bias = _taken(graph, last, found.sizes, "Add")
    if match.quantized(found.x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    if weight is None and 4 * math.prod(found.sizes) > scalars.SHARED:
        return match.miss("it has no weight, and one of ones would make the file grow")

    name = last.outputs[0].name
    weight = np.ones(found.sizes, np.float32) if weight is None else weight
    inputs = [found.x, ir.Constant(f"{name}.weight", weight)]
    if bias is not None:
        inputs.append(ir.Constant(f"{name}.bias", bias))
    attributes = {"axis": found.first, "epsilon": found.epsilon}
    new = ir.Node("LayerNormalization", last.name, attrs=attributes, inputs=inputs)
    return scalars.finish(graph, last, new)


def _normal(graph: gs.Graph, root: gs.Node) -> Normal | None:
    """Return the quotient by a Sqrt if it is a normalisation of known sizes."""
    add = match.sole(graph, root.inputs[0], "Add")
    eps = scalars.shifted(add)
    mean = None if eps is None else match.sole(graph, eps[0], "ReduceMean")
    if eps is None or eps[1] <= 0 or mean is None:
        return None
    square = match.sole(graph, mean.inputs[0], "Pow", "Mul")
    difference = None if square is None else _root_of(square)
    x = None if difference is None else _centred(difference)
    last = _quotient(graph, root)
    axes = _axes(mean)
    if x is None or last is None or axes is None or difference is None:
        return None
    centre = match.producer(difference)
    other = _numerator(last, root)
    if other is not difference and (other is None or _centred(other) is not x):
        return None
    subs = [centre, match.producer(other if other is not None else difference)]
    if any(s is None or _axes(match.producer(s.inputs[1])) != axes for s in subs):
        return None
    dims = shapes.dims(x)
    sizes = tuple(d for d in (dims or ())[axes[0] :] if isinstance(d, int) and d > 0)
    if dims is None or len(sizes) != len(dims) - axes[0]:
        match.miss("the sizes of its axes are not known")
        return None
    return Normal(last, x, axes[0], sizes, eps[1])


def _root_of(square: gs.Node) -> gs.Tensor | None:
    """Return what a Pow by 2 or a product with itself is the square of."""
    left, right = square.inputs
    if square.op == "Pow":
        return left if _two(right) else None
    return left if left is right else None


def _two(exponent: gs.Tensor) -> bool:
    """Whether an exponent is one number, and 2; a rank of 0 or 1 does not widen a tensor."""
    values = match.constant(exponent)
    return values is not None and values.size == 1 and values.ndim < 2 and values.item() == 2


def _centred(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of x - ReduceMean(x)."""
    sub = match.producer(tensor)
    if sub is None or not match.is_op(sub, "Sub"):
        return None
    mean = match.producer(sub.inputs[1])
    if mean is None or not match.is_op(mean, "ReduceMean"):
        return None
    return sub.inputs[0] if mean.inputs[0] is sub.inputs[0] else None


def _axes(mean: gs.Node | None) -> list[int] | None:
    """Return the axes of a ReduceMean that keeps them, if they are the last ones."""
    if mean is None or match.attribute(mean, "keepdims", 1) != 1:
        return None
    axes, dims = match.integers(mean, 1, "axes"), shapes.dims(mean.inputs[0])
    if not axes or dims is None:
        return None
    found = sorted(a % len(dims) for a in axes)
    return found if found == list(range(len(dims) - len(found), len(dims))) else None


def _quotient(graph: gs.Graph, root: gs.Node) -> gs.Node | None:
    """Return the node that divides by a Sqrt, or multiplies by its Reciprocal."""
    tensor = root.outputs[0]
    reader = match.sole_reader(graph, tensor, "Div", "Reciprocal")
    if reader is None:
        return None
    if reader.op == "Reciprocal":
        return match.sole_reader(graph, reader.outputs[0], "Mul")
    return reader if reader.inputs[1] is tensor else None


def _numerator(last: gs.Node, root: gs.Node) -> gs.Tensor | None:
    """Return what a quotient divides."""
    if last.op == "Div":
        return last.inputs[0]
    for left, right in (last.inputs, last.inputs[::-1]):
        if match.is_op(match.producer(right), "Reciprocal"):
            inverse = match.producer(right)
            if inverse is not None and inverse.inputs[0] is root.outputs[0]:
                return left
    return None


def _taken(
    graph: gs.Graph, node: gs.Node, sizes: tuple[int, ...], op: str
) -> tuple[gs.Node, np.ndarray | None]:
    """Return the Mul or Add of a constant of these sizes after a node, and it; else the node."""
    reader = match.sole_reader(graph, node.outputs[0], op)
    if reader is None:
        return node, None
    for tensor in reader.inputs:
        values = match.constant(tensor)
        if values is None or values.shape != sizes or values.dtype != np.float32:
            continue
        if scalars.spare(tensor):
            return reader, values
    return node, None


RULES: tuple[Rule, ...] = (Rule("layer_norm", ("Sqrt",), fuse_layer_norm),)
"""Before those that would take its constants away."""

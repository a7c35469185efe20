"""The core of normalisations: x less its mean over some axes, divided by its deviation there.

d = x - mean(x)     d / sqrt(mean(d * d) + eps)

The square may be a Pow or a product, the quotient a Div or a Mul by the inverse, a Reciprocal or a
Div of 1, and x - mean(x) may be computed twice, as Keras does. What the rules for
LayerNormalization and InstanceNormalization make of it differs by the axes, and by the weights that
follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Normal:
    """(x - mean) / sqrt(variance + eps).

    Attributes:
        last: The node that makes it.
        x: What is normalised; its rank is known.
        axes: What the means are over: not negative, in order.
        epsilon: What is added to the variance.
        square: (x - mean) squared.
    """

    last: gs.Node
    x: gs.Tensor
    axes: tuple[int, ...]
    epsilon: float
    square: gs.Tensor


def read(graph: gs.Graph, root: gs.Node) -> Normal | None:
    """Return the quotient by a Sqrt if it is a normalisation."""
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
    return Normal(last, x, axes, eps[1], mean.inputs[0])


def taken(
    graph: gs.Graph, node: gs.Node, op: str, accept: Callable[[np.ndarray], np.ndarray | None]
) -> tuple[gs.Node, np.ndarray | None]:
    """Return the Mul or Add of a constant after a node, and the constant.

    Args:
        graph: The graph.
        node: What the Mul or Add follows; nobody else reads it.
        op: `Mul` or `Add`.
        accept: Returns a constant's values in the shape that is wanted, None if they do not fit.

    Returns:
        The node itself and None where there is no such reader.
    """
    reader = match.sole_reader(graph, node.outputs[0], op)
    if reader is None:
        return node, None
    for tensor in reader.inputs:
        values = match.constant(tensor)
        if values is None or values.dtype != np.float32 or not scalars.spare(tensor):
            continue
        found = accept(values)
        if found is not None:
            return reader, found
    return node, None


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


def _axes(mean: gs.Node | None) -> tuple[int, ...] | None:
    """Return the axes of a ReduceMean that keeps them."""
    if mean is None or match.attribute(mean, "keepdims", 1) != 1:
        return None
    axes, dims = match.integers(mean, 1, "axes"), shapes.dims(mean.inputs[0])
    if not axes or dims is None:
        return None
    return tuple(sorted(a % len(dims) for a in axes))


def inverted(node: gs.Node) -> gs.Tensor | None:
    """Return x of Reciprocal(x), or of 1 / x."""
    if match.is_op(node, "Reciprocal"):
        return node.inputs[0]
    if match.is_op(node, "Div") and scalars.number(node.inputs[0], node.inputs[1]) == 1:
        return node.inputs[1]
    return None


def _quotient(graph: gs.Graph, root: gs.Node) -> gs.Node | None:
    """Return the node that divides by a Sqrt, or multiplies by its inverse."""
    tensor = root.outputs[0]
    reader = match.sole_reader(graph, tensor, "Div", "Reciprocal")
    if reader is None:
        return None
    if inverted(reader) is not None:
        return match.sole_reader(graph, reader.outputs[0], "Mul")
    return reader if reader.inputs[1] is tensor else None


def _numerator(last: gs.Node, root: gs.Node) -> gs.Tensor | None:
    """Return what a quotient divides."""
    if last.op == "Div":
        return last.inputs[0]
    for left, right in (last.inputs, last.inputs[::-1]):
        inverse = match.producer(right)
        if inverse is not None and inverted(inverse) is root.outputs[0]:
            return left
    return None

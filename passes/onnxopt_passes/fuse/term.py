"""One elementwise node with a constant, as a formula: source * k + d.

Mul     x * c      k = c          d = 0
Div     x / c      k = 1 / c      d = 0       no element of c is 0, or subnormal
Add     x + c      k = 1          d = c
Sub     x - c      k = 1          d = -c
Sub     c - x      k = -1         d = c

Rules that move or merge such nodes share what must be left alone: nodes between a Q or DQ and its
op, and constants of patterns that runtimes know as a whole (the 0.5 of a GELU, the weights of a
normalisation), which would no longer be recognized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt_passes.fuse import layer as layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

OPS = ("Mul", "Div", "Add", "Sub")

ROOTS = ("Sqrt", "Reciprocal")
"""What a normalisation multiplies by, or divides by."""

BELLS = ("Erf", "Tanh")
"""What a GELU is made of."""

LIMITS = ("Clip", "Min", "Max")
"""What a gate of straight lines is made of."""


@dataclass(frozen=True)
class Term:
    """A node that computes `source * k + d`.

    Attributes:
        node: The node.
        source: The tensor that is not constant.
        k: Factor, in float64: one value of rank 0, or of the constant's shape.
        d: Summand, likewise.
        dtype: Element type of all of it.
    """

    node: gs.Node
    source: gs.Tensor
    k: np.ndarray
    d: np.ndarray
    dtype: np.dtype

    @property
    def values(self) -> np.ndarray:
        """The one of k and d that has the constant's shape."""
        return self.k if self.node.op in ("Mul", "Div") else self.d

    @property
    def scales(self) -> bool:
        """Whether it does nothing but scale."""
        return self.node.op in ("Mul", "Div")

    @property
    def shifts(self) -> bool:
        """Whether it does nothing but shift."""
        return not self.scales and bool(self.k == 1)


def read(graph: gs.Graph, node: gs.Node | None) -> Term | None:
    """Return the formula of Mul, Div, Add or Sub with a constant; None for anything else."""
    if node is None or not match.is_op(node, *OPS) or graph.opset < 7:  # broadcast, an attribute
        return None
    left, right = (match.constant(t) for t in node.inputs)
    values = right if left is None else left
    if values is None or (left is not None and right is not None):
        return None
    if values.dtype not in layers.FLOATS or not values.size or not np.isfinite(values).all():
        return None
    source = node.inputs[0 if left is None else 1]
    wide, one, zero = values.astype(np.float64), np.float64(1), np.float64(0)
    k, d = np.asarray(one), np.asarray(zero)
    if node.op == "Mul":
        k = wide
    elif node.op == "Add":
        d = wide
    elif node.op == "Sub":
        k, d = (k, -wide) if left is None else (-k, wide)
    elif left is not None or not (np.abs(wide) >= np.finfo(values.dtype).tiny).all():
        return None
    else:
        k = one / wide
    return Term(node, source, np.asarray(k), np.asarray(d), values.dtype)


def vector(values: np.ndarray, tensor: gs.Tensor) -> tuple[np.ndarray, int | None] | None:
    """Return a constant as one value, or as one a slice of a tensor along an axis, and that axis.

    None if it differs along two axes, or may widen the tensor.
    """
    dims = shapes.dims(tensor)
    if values.ndim == 0:
        return values.reshape(1), None
    if dims is None or values.ndim > len(dims):
        return None
    if values.size == 1:
        return values.reshape(1), None
    wide = (1,) * (len(dims) - values.ndim) + values.shape
    axes = [i for i, n in enumerate(wide) if n != 1]
    if len(axes) != 1 or dims[axes[0]] != values.size:
        return None
    return values.reshape(-1), axes[0]


def normalised(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a normalised one, or one with weight and bias of the normalisation."""
    term = read(graph, match.producer(tensor))
    while term is not None:
        tensor = term.source
        term = read(graph, match.producer(tensor))
    node = match.producer(tensor)
    if match.is_op(node, "Cast", "Reshape"):
        node = match.producer(node.inputs[0])  # type: ignore[union-attr]
    if node is None or not match.is_op(node, "Mul", "Div", "InstanceNormalization", *ROOTS):
        return False
    if node.op != "Mul":
        return True
    return any(match.is_op(match.producer(t), "Div", "Pow", *ROOTS) for t in node.inputs)


def gelu(tensor: gs.Tensor) -> bool:
    """Whether a tensor is `erf(x) + 1` or `tanh(x) + 1`, or a product with (half of) that."""
    node = match.producer(tensor)
    for _ in range(2):
        if match.is_op(node, "Add"):
            break
        if not match.is_op(node, "Mul"):
            return False
        makers = [match.producer(t) for t in node.inputs]  # type: ignore[union-attr]
        sums = [m for m in makers if match.is_op(m, "Add") and _bell(m)]
        node = sums[0] if sums else next((m for m in makers if match.is_op(m, "Mul")), None)
    return _bell(node)


def _bell(node: gs.Node | None) -> bool:
    return match.is_op(node, "Add") and any(
        match.is_op(match.producer(t), *BELLS)
        for t in node.inputs  # type: ignore[union-attr]
    )


def clipped(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a clipped one, scaled or not: a gate, as in HardSwish."""
    term = read(graph, match.producer(tensor))
    node = match.producer(tensor if term is None else term.source)
    return match.is_op(node, *LIMITS)


def gated(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a product with a Min or Max: a Clip to be, and then a HardSwish.

    The factor that follows belongs to it.
    """
    node = match.producer(tensor)
    return match.is_op(node, "Mul") and any(
        match.is_op(match.producer(t), "Min", "Max")
        for t in node.inputs  # type: ignore[union-attr]
    )

"""Ranks and axes: what nodes say about them, wherever their opset puts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_graphsurgeon as gs

AXES_AS_INPUT = 13
"""Squeeze and Unsqueeze take their axes as an input from this opset on."""


def integer(node: gs.Node, name: str, default: int | None = None) -> int | None:
    """Return an integer attribute; None where it is a reference, or absent without a default."""
    value = match.attribute(node, name, default)
    return value if isinstance(value, int) else None


def rank(tensor: gs.Tensor) -> int | None:
    """Return the number of axes of a tensor, None where it is unknown."""
    found = shapes.dims(tensor)
    return None if found is None else len(found)


def size(tensor: gs.Tensor, axis: int) -> int | None:
    """Return the size of an axis; None where it is unknown or 0, which some files have for `?`."""
    found = shapes.dims(tensor)
    if found is None or not -len(found) <= axis < len(found):
        return None
    value = found[axis]
    return value if isinstance(value, int) and value > 0 else None


def normal(axes: Iterable[int], rank: int | None) -> list[int] | None:
    """Return axes counted from the front, in their order; None if that needs an unknown rank."""
    given = list(axes)
    if rank is not None:
        if not all(-rank <= a < rank for a in given):
            return None
        given = [a % rank for a in given]
    return given if min(given, default=0) >= 0 and len(set(given)) == len(given) else None


def same(one: Sequence[int], other: Sequence[int], rank: int | None) -> bool:
    """Whether two lists name the same axes of tensors of one rank."""
    if len(set(one)) == len(one) and sorted(one) == sorted(other):
        return True
    a, b = normal(one, rank), normal(other, rank)
    return a is not None and b is not None and sorted(a) == sorted(b)


def axes_of(node: gs.Node) -> list[int] | None:
    """Return the axes that a node names as constants."""
    return match.integers(node, 1, "axes")


def silent(node: gs.Node) -> bool:
    """Whether a node does not say its axes at all."""
    return "axes" not in node.attrs and not match.given(node, 1)


def squeezed(node: gs.Node) -> list[int] | None:
    """Return the axes that a Squeeze takes away, None where that depends on the input."""
    axes = axes_of(node)
    if axes:
        return axes
    found = shapes.static(node.inputs[0])
    if found is None or not silent(node):
        return None
    return [i for i, d in enumerate(found) if d == 1]


def set_axes(graph: gs.Graph, node: gs.Node, axes: Sequence[int]) -> None:
    """Make a node name these axes, where its opset has them."""
    old = graph.opset < AXES_AS_INPUT and node.op in ("Squeeze", "Unsqueeze")
    if old or "axes" in node.attrs:
        node.attrs["axes"] = list(axes)
        return
    node.inputs = [node.inputs[0], integers(f"{node.outputs[0].name}.axes", axes)]


def integers(name: str, values: Sequence[int]) -> ir.Constant:
    """Return a new constant of int64 values in one axis."""
    return ir.Constant(name, np.array(values, np.int64))

"""Channels of values behind attention: each is still one channel of what is read there.

    y = P v         P of attention, v values of one head, (keys, channels)

mixes rows of v and leaves its columns alone, so that a factor of a column passes through. What
splits a tensor into heads before, and puts them together behind, must leave channels in their
order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def behind(graph: gs.Graph, values: gs.Tensor) -> gs.Tensor | None:
    """Return the tensor behind attention whose last axis has the channels of some values.

    Args:
        graph: Stamped, shapes inferred.
        values: (..., heads x channels), read once: Reshape, Transpose, MatMul from the left,
            Transpose, Reshape.

    Returns:
        None if they are read in another way.
    """
    split = match.sole_reader(graph, values, "Reshape")
    apart = _next(graph, split, "Transpose")
    product = _next(graph, apart, "MatMul")
    together = _next(graph, product, "Transpose")
    merge = _next(graph, together, "Reshape")
    if split is None or apart is None or product is None or together is None or merge is None:
        return None
    found: gs.Tensor = merge.outputs[0]
    heads, whole, joined = (shapes.dims(t) or () for t in (split.outputs[0], values, found))
    mixed, order = apart.attrs.get("perm", []), together.attrs.get("perm", [])
    rank = len(heads)
    if rank < 3 or not rank == len(whole) + 1 == len(joined) + 1 == len(mixed) == len(order):
        return None
    *_, number, size = heads
    if not isinstance(number, int) or not isinstance(size, int):
        return None
    head, channel = rank - 2, rank - 1
    if number * size != whole[-1] or whole[-1] != joined[-1]:
        return None
    if product.inputs[1] is not apart.outputs[0] or mixed[-1] != channel or mixed[-2] == head:
        return None
    return found if order[-2:] == [mixed.index(head), channel] else None


def _next(graph: gs.Graph, node: gs.Node | None, op: str) -> gs.Node | None:
    """Return the only reader of what a node makes, if it is such an op."""
    return None if node is None else match.sole_reader(graph, node.outputs[0], op)

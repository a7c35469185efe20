"""An Attention that splits and joins its heads by itself.

Attention of heads that are split and joined around it
  Reshape [batch, length, heads, size] -> Transpose -> Attention -> Transpose -> Reshape
->  Attention(q_num_heads, kv_num_heads)      on [batch, length, heads * size]

onnxruntime then reads and writes the heads where they are. The Reshapes must be known to keep batch
and length apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shape_values, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SWAP = [0, 2, 1, 3]
"""Permutation that swaps heads and length."""


def take_heads(graph: gs.Graph, node: gs.Node) -> bool:
    """Let an Attention split and join its heads by itself."""
    reshape = joined(graph, node)
    q_dims, v_dims = (shapes.dims(node.inputs[i]) for i in (0, 2))
    if reshape is None or q_dims is None or len(q_dims) != 4:
        return False
    if len(node.outputs) > 1 or any(match.given(node, i) for i in (4, 5)):
        return match.miss("it keeps keys and values of before, or returns more than its product")
    heads, size = q_dims[1], (v_dims or (None,))[-1]
    parts = [split(graph, t) for t in node.inputs[:3]]
    if any(p is None for p in parts) or not isinstance(heads, int) or not isinstance(size, int):
        return match.miss("its heads are not split from [batch, length, heads * size]")
    if not joins(reshape, node.inputs[0], heads * size):
        return match.miss("its heads are not joined to [batch, length, heads * size]")
    if match.quantized(node.inputs[0], reshape.outputs[0]):
        return match.miss("it stands before a QuantizeLinear")

    kv_heads = (shapes.dims(node.inputs[1]) or ())[1]
    attributes = {**node.attrs, "q_num_heads": heads, "kv_num_heads": kv_heads}
    inputs = [*(p for p in parts if p is not None), *node.inputs[3:]]
    return scalars.finish(graph, reshape, ir.Node("Attention", node.name, attributes, inputs))


def joined(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """Return the Reshape that joins the heads of an output, behind a Transpose."""
    turned = match.sole_reader(graph, node.outputs[0], "Transpose")
    if turned is None or match.attribute(turned, "perm", None) != SWAP:
        return None
    return match.sole_reader(graph, turned.outputs[0], "Reshape")


def split(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return [batch, length, heads * size] that [batch, heads, length, size] is made of."""
    turned = match.producer(tensor)
    if turned is None or not match.is_op(turned, "Transpose") or not match.here(graph, turned):
        return None
    return whole(turned.inputs[0]) if match.attribute(turned, "perm", None) == SWAP else None


def whole(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return [batch, length, heads * size] that [batch, length, heads, size] is a Reshape of."""
    reshape, dims = match.producer(tensor), shapes.dims(tensor)
    if reshape is None or not match.is_op(reshape, "Reshape") or dims is None or len(dims) != 4:
        return None
    heads, size = dims[2:]
    x = reshape.inputs[0]
    joined = shapes.dims(x)
    if not isinstance(heads, int) or not isinstance(size, int):
        return None
    if joined is None or len(joined) != 3 or joined[2] != heads * size:
        return None
    return x if _kept(reshape, (shapes.axis(x, 0), shapes.axis(x, 1))) else None


def joins(reshape: gs.Node, q: gs.Tensor, width: int) -> bool:
    """Whether a Reshape joins the last two axes of [batch, queries, heads, size].

    Args:
        reshape: What reads the output of an attention, its heads and length swapped.
        q: [batch, heads, queries, size].
        width: How many heads there are, times their size.
    """
    dims = shapes.dims(reshape.outputs[0])
    if dims is None or len(dims) != 3 or (isinstance(dims[2], int) and dims[2] != width):
        return False
    rows = (shapes.axis(q, 0), shapes.axis(q, 2))
    return _kept(reshape, rows) >= (1 if dims[2] == width else 2)


def _kept(reshape: gs.Node, rows: tuple[shapes.Element | None, shapes.Element | None]) -> int:
    """Return how many of two sizes, the first two axes of its input, a Reshape is known to keep.

    One suffices where it keeps the product of the two.
    """
    asked = shape_values.elements(reshape.inputs[1])
    zeros_copy = match.attribute(reshape, "allowzero", 0) == 0
    count = 0
    for i, size in enumerate(rows):
        wanted = asked[i] if asked and len(asked) > i else None
        found = (shapes.axis(reshape.outputs[0], i), wanted)
        count += (size is not None and size != 0 and size in found) or (wanted == 0 and zeros_copy)
    return count


RULES: tuple[Rule, ...] = (Rule("attention_heads", ("Attention",), take_heads),)
"""After that for Attention."""

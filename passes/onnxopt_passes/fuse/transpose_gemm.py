"""Transposes of matrices that are multiplied, as flags of a Gemm.

Gemm(Transpose(a), b)    ->  Gemm(a, b; transA)          the same for b
MatMul(Transpose(a), b)  ->  Gemm(a, b; transA)          matrices, the same for b

A Gemm reads a matrix in either order. What is transposed may have other readers; the Transpose then
stays for those. MatMul becomes Gemm for two axes only, from opset 11 on, which lets it do without a
summand. A constant is transposed by `clean`, once and for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

NO_SUMMAND = 11
"""A Gemm may have two inputs from this opset on."""

FLAGS = ("transA", "transB")


def fuse_gemm(graph: gs.Graph, gemm: gs.Node) -> bool:
    """Let a Gemm read what was transposed for it as it was."""
    if graph.opset < scalars.BROADCASTS:
        return False
    for place, flag in enumerate(FLAGS):
        x = _before(gemm.inputs[place])
        set_ = match.attribute(gemm, flag, 0)
        if x is None or not isinstance(set_, int) or match.quantized(x, gemm.outputs[0]):
            continue

        gemm.attrs[flag] = int(not set_)
        gemm.inputs = [x if i == place else t for i, t in enumerate(gemm.inputs)]
        return True
    return False


def fuse_matmul(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a product of matrices, of which one was transposed for it, as a Gemm."""
    found = [_before(t) for t in node.inputs]
    if graph.opset < NO_SUMMAND or not any(x is not None for x in found):
        return False
    ranks = [shapes.dims(t) for t in node.inputs]
    if any(dims is None or len(dims) != 2 for dims in ranks):
        return False
    if scalars.kind(*node.inputs, node.outputs[0]) not in scalars.FLOATS:
        return False
    if any(match.quantized(t, node.outputs[0]) for t in (*node.inputs, *filter(None, found))):
        return False

    attributes = {flag: 1 for flag, x in zip(FLAGS, found, strict=True) if x is not None}
    inputs = [x or t for x, t in zip(found, node.inputs, strict=True)]
    return scalars.finish(graph, node, ir.Node("Gemm", node.name, attributes, inputs))


def _before(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return the matrix that a tensor is the transpose of."""
    node = match.producer(tensor)
    if node is None or not match.is_op(node, "Transpose"):
        return None
    x = node.inputs[0]
    dims = shapes.dims(x)
    perm = node.attrs.get("perm", [1, 0])
    return x if dims is not None and len(dims) == 2 and perm == [1, 0] else None


RULES: tuple[Rule, ...] = (
    Rule("transpose_gemm", ("Gemm",), fuse_gemm),
    Rule("transpose_matmul", ("MatMul",), fuse_matmul),
)
"""In the order in which they are tried."""

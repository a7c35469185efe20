"""x + x * g  ->  x * (g + 1)        x - x * g  ->  x * (1 - g)        g smaller than x.

A squeeze-and-excite block with a residual: g has one value a channel, so that the sum moves from
all elements of x to a few. With |x * g| no larger than |x| 2^24 both forms round alike; where g is
near -1 the new one loses less.

g must have an axis of size 1 where x has none, and may not widen x; nobody else reads the product.
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


def fuse_residual_gate(graph: gs.Graph, node: gs.Node) -> bool:
    """Add one to a gate, not the gated to what it gates."""
    found = None if graph.opset < scalars.BROADCASTS else _gated(graph, node)
    if found is None:
        return False
    product, x, gate = found
    dtype, out = scalars.kind(x, node.outputs[0]), node.outputs[0]
    if dtype not in scalars.FLOATS or not _smaller(gate, x):
        return False
    if match.constant(x) is not None or match.constant(gate) is not None:
        return False  # the matter of `affine_chain`
    if match.quantized(x, out) or match.quantized(gate, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    one = scalars.constant(f"{out.name}.one", 1, np.dtype(dtype))
    more = ir.Variable(f"{out.name}.gate")
    shapes.note(more, dtype, shapes.dims(gate))
    inputs = [gate, one] if node.op == "Add" else [one, gate]
    product.op, product.inputs, product.outputs = node.op, inputs, [more]
    node.op, node.inputs = "Mul", [x, more]
    return True


def _gated(graph: gs.Graph, node: gs.Node) -> tuple[gs.Node, gs.Tensor, gs.Tensor] | None:
    """Return the product, x and g of a sum or difference of x and x * g."""
    left, right = node.inputs
    sides = [(left, right), (right, left)] if node.op == "Add" else [(left, right)]
    for x, other in sides:
        product = match.sole(graph, other, "Mul")
        if product is None or (product.inputs[0] is x) == (product.inputs[1] is x):
            continue
        return product, x, product.inputs[1 if product.inputs[0] is x else 0]
    return None


def _smaller(gate: gs.Tensor, x: gs.Tensor) -> bool:
    """Whether a gate is spread over x, and does not widen it."""
    small, large = shapes.dims(gate), shapes.dims(x)
    if small is None or large is None or len(small) > len(large):
        return False
    pairs = list(zip(reversed(small), reversed(large), strict=False))
    if not all(a == 1 or (a is not None and a == b) for a, b in pairs):
        return match.miss("the gate is not known to fit into what it gates")
    return any(a == 1 and b != 1 for a, b in pairs) or len(small) < len(large)


RULES: tuple[Rule, ...] = (Rule("residual_gate", ("Add", "Sub"), fuse_residual_gate),)
"""The rule of this file."""

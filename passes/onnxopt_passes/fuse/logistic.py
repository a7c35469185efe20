"""Sigmoid and SiLU from the exponential that they are defined by.

1 / (1 + exp(-x))   ->  Sigmoid(x)          also as a Reciprocal
x / (1 + exp(-x))   ->  x * Sigmoid(x)

as XLA and older exporters write them. Where exp(-x) is infinite, both sides are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_sigmoid(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a logistic function, or a product with one, by Sigmoid."""
    bottom = node.inputs[-1]
    x = _exponent(graph, bottom) if graph.opset >= scalars.BROADCASTS else None
    if x is None:
        return False
    top = node.inputs[0] if node.op == "Div" else None
    inverse = top is None or scalars.number(top, x) == 1
    if not inverse and top is not x:
        return False
    out = node.outputs[0]
    if scalars.kind(x, out) not in scalars.SINGLE:
        return match.miss("it is neither float32 nor float16")
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    if inverse:
        return scalars.finish(graph, node, ir.Node("Sigmoid", node.name, inputs=[x]))
    gate = scalars.step(graph, "Sigmoid", f"{out.name}.gate", x, x)
    return scalars.finish(graph, node, ir.Node("Mul", node.name, inputs=[x, gate]))


def _exponent(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of 1 + exp(-x)."""
    shift = scalars.shifted(match.sole(graph, tensor, "Add"))
    power = None if shift is None or shift[1] != 1 else match.sole(graph, shift[0], "Exp")
    turned = None if power is None else match.sole(graph, power.inputs[0], "Neg", "Mul")
    scale = scalars.scaled(turned)
    if scale is None or scale[1] != -1 or shapes.dtype(tensor) is None:
        return None
    return scale[0]


RULES: tuple[Rule, ...] = (Rule("sigmoid", ("Div", "Reciprocal"), fuse_sigmoid),)
"""Before divisions become multiplications."""

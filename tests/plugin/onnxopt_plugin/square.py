"""Pow(x, 2)  ->  Mul(x, x).

Exact: IEEE 754 multiplication rounds once, as pow with exponent 2 does. The exponent must be one
constant 2 that does not broaden the result, and the base a float, since Pow of integers may take
its type from either operand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxopt import Context, Model, Pass, Rule, match, rewrite, shapes
from onnxopt.model import ir

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def pow_to_mul(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace a square by a product."""
    base, exponent = node.inputs
    if match.scalar(exponent) != 2.0 or shapes.dims(exponent) not in ((), (1,)):
        return False
    kind, rank = shapes.dtype(base), shapes.dims(base)
    if kind is None or kind.kind != "f" or not rank or kind != shapes.dtype(exponent):
        return False

    (out,) = node.outputs
    match.remove(node)
    match.insert(graph, ir.Node("Mul", node.name, {}, [base, base], [out]))
    return True


@dataclass(frozen=True)
class Square(Pass):
    """Replace squares by products, which every runtime computes faster."""

    name: ClassVar[str] = "square"
    exact: ClassVar[bool] = True

    def run(self, model: Model, ctx: Context) -> int:
        """Apply the rule up to the fixpoint."""
        shapes.infer(model)
        return rewrite.apply(model, (Rule("pow_to_mul", ("Pow",), pow_to_mul),), ctx)

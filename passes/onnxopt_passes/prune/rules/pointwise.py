"""Ops that work element by element, with broadcasting, and those that scale along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.axes import ONE
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil"),
    *("Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
"""Ops with one tensor; their further inputs are scalars."""

BROADCAST = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"),
    *("PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
"""Ops whose inputs are aligned at the last axis; axes of length 1 are repeated."""

DIVISORS = {"Div": 1, "Pow": 1, "Mod": 1}
"""Inputs that must not become zero."""

ALIGNED = 7
"""From this opset on, arithmetic broadcasts as numpy does."""

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "And", "Or", "Xor", "Equal")
ARITHMETIC_BEFORE = (*ARITHMETIC, "Greater", "Less")
"""Ops that had attributes `axis` and `broadcast` before."""


def unary(sheet: Sheet, node: gs.Node) -> None:
    """Hand the axes of the first input on."""
    found = sheet.axes(node.inputs[0])
    for out in node.outputs:
        sheet.put(out, found)


def broadcast(sheet: Sheet, node: gs.Node, inputs: Sequence[list[Axis]]) -> list[Axis]:
    """Align axes at the last one, unify those longer than 1, and return those of the result."""
    rank = max((len(found) for found in inputs), default=0)
    made = []
    for place in range(-rank, 0):
        column = [found[place] for found in inputs if len(found) >= -place]
        made.append(_meet(sheet, node, [a for a in column if a != ONE]))
    return made


def _meet(sheet: Sheet, node: gs.Node, column: list[Axis]) -> Axis:
    """Return the axis of a result; those that meet there are longer than 1, as far as is known."""
    long = [a for a in column if axes.inner(a) != ONE]
    if len(long) < len(column) or len({axes.size(a) is None for a in long}) > 1:
        for axis in long:
            sheet.freeze(axis, node, "meets an axis whose length is not known")
    for axis in long[1:]:
        sheet.unify(long[0], axis, node)
    return next(iter([*long, *column]), ONE)


def elementwise(sheet: Sheet, node: gs.Node) -> None:
    """Arithmetic and comparisons with broadcasting."""
    if sheet.opset < ALIGNED and node.op in ARITHMETIC_BEFORE and node.attrs.get("broadcast"):
        raise Standback("it aligns axes in the way of old opsets")
    divisor = DIVISORS.get(node.op)
    if divisor is not None:
        tensor = node.inputs[divisor]
        for i in range(len(sheet.axes(tensor))):
            sheet.role(tensor, i, Role.DIVISOR)
    found = [list(sheet.axes(t)) for t in node.inputs]
    sheet.put(node.outputs[0], broadcast(sheet, node, found))


def quantize(sheet: Sheet, node: gs.Node) -> None:
    """QuantizeLinear and DequantizeLinear, per tensor or per axis; blocks are frozen."""
    if node.attrs.get("block_size", 0):
        raise Standback("it is quantized in blocks")
    found = sheet.axes(node.inputs[0])
    axis = node.attrs.get("axis", 1)
    for tensor in node.inputs[1:]:
        scale = sheet.axes(tensor) if tensor.name else ()
        if len(scale) == 1 and scale[0] != ONE:
            if not isinstance(axis, int) or not -len(found) <= axis < len(found):
                raise Standback("its axis is not known")
            sheet.unify(found[axis], scale[0], node)
            sheet.role(tensor, 0, Role.DIVISOR)
        elif len(scale) > 1:
            raise Standback("it is quantized in blocks")
    sheet.put(node.outputs[0], found)


def batch_norm(sheet: Sheet, node: gs.Node) -> None:
    """BatchNormalization: scale, bias, mean and variance run along the channels."""
    found = sheet.axes(node.inputs[0])
    if len(found) < 2:
        raise Standback("it has no channels")
    for i, tensor in enumerate(node.inputs[1:5], start=1):
        sheet.unify(found[1], sheet.axes(tensor)[0], node)
        sheet.role(tensor, 0, Role.DIVISOR if i == 4 else Role.PASS)
    if any(t.name and (t.outputs or match.fetched(t)) for t in node.outputs[1:]):
        raise Standback("it trains")
    sheet.put(node.outputs[0], found)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BROADCAST, elementwise),
    "QuantizeLinear": quantize,
    "DequantizeLinear": quantize,
    "BatchNormalization": batch_norm,
}

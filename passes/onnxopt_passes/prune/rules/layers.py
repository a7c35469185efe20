"""Layers with a contraction: Conv, ConvTranspose, Gemm, MatMul, Einsum.

With G groups, a Conv reads G x I channels and makes G x O; its weight is (G x O, I, taps). A
depthwise Conv has I = O = 1: what it reads, its weight and what it makes are all G. ConvTranspose's
weight is (G x I, O, taps). Contracted axes of both operands are one axis, whether the operands are
constant or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.axes import ONE, Prod, mark_head
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.rules.pointwise import broadcast
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis


def conv(sheet: Sheet, node: gs.Node) -> None:
    """Conv with any number of groups and spatial axes."""
    x, w = sheet.axes(node.inputs[0]), sheet.axes(node.inputs[1])
    groups = _groups(node)
    rows, columns = Role.PRODUCER, Role.CONSUMER
    if groups == 1:
        sheet.unify(x[1], w[1], node)
        made: Axis = w[0]
    else:
        outputs = axes.size(w[0])
        if outputs is None or outputs % groups:
            raise Standback("its weight does not fit its groups")
        group, each = axes.new(groups), axes.new(outputs // groups)
        sheet.unify(x[1], Prod((group, w[1])), node)
        made = Prod((group, each))
        sheet.unify(w[0], made, node)
        sheet.number(node, "group", None, group)
    sheet.role(node.inputs[1], 0, rows)
    sheet.role(node.inputs[1], 1, columns)
    _finish(sheet, node, x, w, made)


def conv_transpose(sheet: Sheet, node: gs.Node) -> None:
    """ConvTranspose with any number of groups and spatial axes."""
    x, w = sheet.axes(node.inputs[0]), sheet.axes(node.inputs[1])
    groups = _groups(node)
    made: Axis = w[1]
    sheet.unify(x[1], w[0], node)
    if groups > 1:
        inputs = axes.size(w[0])
        if inputs is None or inputs % groups:
            raise Standback("its weight does not fit its groups")
        group = axes.new(groups)
        sheet.unify(w[0], Prod((group, axes.new(inputs // groups))), node)
        made = Prod((group, w[1]))
        sheet.number(node, "group", None, group)
    sheet.role(node.inputs[1], 0, Role.CONSUMER)
    sheet.role(node.inputs[1], 1, Role.PRODUCER)
    _finish(sheet, node, x, w, made)


def _groups(node: gs.Node) -> int:
    found = node.attrs.get("group", 1)
    if not isinstance(found, int) or found < 1:
        raise Standback("its groups are not a number")
    return found


def _finish(
    sheet: Sheet, node: gs.Node, x: tuple[Axis, ...], w: tuple[Axis, ...], made: Axis
) -> None:
    """Freeze the spatial axes, meet the bias, and make the output."""
    for axis in (*x[2:], *w[2:]):
        sheet.freeze(axis, node, "spatial axis")
    if match.given(node, 2):
        sheet.unify(sheet.axes(node.inputs[2])[0], made, node)
    spatial(sheet, node, x, made)


def spatial(sheet: Sheet, node: gs.Node, x: tuple[Axis, ...], channels: Axis) -> None:
    """Make outputs (batch, channels, ...) whose further axes are new and frozen."""
    from onnxopt import shapes

    for out in node.outputs:
        if not out.name:
            continue
        known = shapes.dims(out) or (None,) * len(x)
        rest = [
            axes.new(d if isinstance(d, int) else None, "spatial axis") for d in known[2 : len(x)]
        ]
        sheet.put(out, [x[0], channels, *rest])


def gemm(sheet: Sheet, node: gs.Node) -> None:
    """Gemm, transposed or not."""
    flags = [node.attrs.get(name, 0) for name in ("transA", "transB")]
    if not all(f in (0, 1) for f in flags):
        raise Standback("its attributes are not numbers")
    a, b = sheet.axes(node.inputs[0]), sheet.axes(node.inputs[1])
    rows, k = (a[1], a[0]) if flags[0] else (a[0], a[1])
    inner, columns = (b[1], b[0]) if flags[1] else (b[0], b[1])
    sheet.unify(k, inner, node)
    for slot, axis in ((0, 0 if flags[0] else 1), (1, 1 if flags[1] else 0)):
        sheet.role(node.inputs[slot], axis, Role.CONSUMER)
        sheet.role(node.inputs[slot], 1 - axis, Role.PRODUCER)
    made = [rows, columns]
    if match.given(node, 2):
        made = broadcast(sheet, node, [made, list(sheet.axes(node.inputs[2]))])
    sheet.put(node.outputs[0], made)


def matmul(sheet: Sheet, node: gs.Node) -> None:
    """MatMul of operands of any rank, constant or not."""
    a, b = (list(sheet.axes(t)) for t in node.inputs)
    if not a or not b:
        raise Standback("an operand is a scalar")
    inner = b[-2] if len(b) > 1 else b[0]
    sheet.unify(a[-1], inner, node)
    _matmul_roles(sheet, node, len(a), len(b))
    batch = broadcast(sheet, node, [a[:-2], b[:-2]])
    made = batch + a[-2:-1] + (b[-1:] if len(b) > 1 else [])
    if all(match.constant(t) is None for t in node.inputs) and len(a) > 2 and len(b) > 2:
        mark_head(inner)
        mark_head(b[-1])
    sheet.put(node.outputs[0], made)


def _matmul_roles(sheet: Sheet, node: gs.Node, first: int, second: int) -> None:
    sheet.role(node.inputs[0], first - 1, Role.CONSUMER)
    if first > 1:
        sheet.role(node.inputs[0], first - 2, Role.PRODUCER)
    sheet.role(node.inputs[1], max(second - 2, 0), Role.CONSUMER)
    if second > 1:
        sheet.role(node.inputs[1], second - 1, Role.PRODUCER)


def einsum(sheet: Sheet, node: gs.Node) -> None:
    """Einsum: one axis a letter."""
    equation = node.attrs.get("equation")
    if not isinstance(equation, str) or "." in equation:
        raise Standback("its equation has an ellipsis")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left) - {","})
        right = "".join(c for c in letters if left.count(c) == 1)
    known = [sheet.axes(t) for t in node.inputs]
    if [len(t) for t in terms] != [len(k) for k in known]:
        raise Standback("its equation does not fit its inputs")
    if any(len(set(t)) < len(t) for t in terms):
        raise Standback("a letter of its equation stands twice in one operand")
    meaning = _letters(sheet, node, terms, right)
    sheet.put(node.outputs[0], [meaning[letter] for letter in right])
    if len(terms) == 2 and all(match.constant(t) is None for t in node.inputs):
        for letter in set(terms[0]) & set(terms[1]) - set(right):
            mark_head(meaning[letter])


def _letters(sheet: Sheet, node: gs.Node, terms: list[str], right: str) -> dict[str, Axis]:
    """Return the axis that each letter stands for."""
    meaning: dict[str, Axis] = {}
    for tensor, term in zip(node.inputs, terms, strict=True):
        for i, (letter, axis) in enumerate(zip(term, sheet.axes(tensor), strict=True)):
            sheet.role(tensor, i, Role.PRODUCER if letter in right else Role.CONSUMER)
            if meaning.get(letter, ONE) == ONE:
                meaning[letter] = axis
            elif axis != ONE:
                sheet.unify(meaning[letter], axis, node)
    return meaning


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
}

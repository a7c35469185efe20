"""Reshape and Flatten: axes are multiplied together and taken apart again.

Lengths on both sides are matched in blocks of one product, from the last axis on; what is left is
matched from the first axis on, up to the first length that is not known. Within a block, the axes
of the result are the factors of the product. One length that is not known may lead a block: batch x
heads, where the batch is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from onnxopt import shapes
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.algebra import tail
from onnxopt_passes.prune.axes import ONE, Prod
from onnxopt_passes.prune.origins import Place, follow, origins
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis
    from onnxopt_passes.prune.origins import Origin

Dim: TypeAlias = "int | str | None"


def reshape(sheet: Sheet, node: gs.Node) -> None:
    """Reshape to a constant or computed shape."""
    found = sheet.axes(node.inputs[0])
    if sheet.opset < 5 or len(node.inputs) < 2:
        raise Standback("its shape is an attribute")
    target = origins(node, 1)
    known = shapes.dims(node.outputs[0])
    if known is None:
        raise Standback("the rank of its result is unknown")
    if target is not None and len(target) != len(known):
        raise Standback("its shape does not have the rank of its result")
    lengths = _lengths(known, target, found, bool(node.attrs.get("allowzero", 0)))
    made = regroup(sheet, node, found, lengths)
    for i, axis in enumerate(made):
        _emit(sheet, node, target[i] if target else None, axis, found, i)
    sheet.put(node.outputs[0], made)


def _lengths(
    known: Sequence[Dim], target: list[Origin] | None, found: Sequence[Axis], allowzero: bool
) -> list[Dim]:
    """Return the lengths of the result; those that copy an input's are spelled `=index`."""
    lengths = list(known)
    for i, origin in enumerate(target or ()):
        copies = isinstance(origin, Place) and origin.value == 0 and not allowzero
        if copies and not isinstance(lengths[i], int) and i < len(found):
            lengths[i] = f"={i}"
    return lengths


def _emit(
    sheet: Sheet, node: gs.Node, origin: Origin, axis: Axis, found: Sequence[Axis], index: int
) -> None:
    """Make an element of the target follow its axis."""
    if axes.inner(axis) == ONE:
        return
    if isinstance(origin, Place) and origin.value <= 0:
        if origin.value == 0 and index < len(found):
            sheet.number(origin.node, origin.slot, origin.place, axis, found[index])
        return
    follow(sheet, origin, axis, node)


def flatten(sheet: Sheet, node: gs.Node) -> None:
    """Flatten to two axes."""
    found = sheet.axes(node.inputs[0])
    axis = node.attrs.get("axis", 1)
    if not isinstance(axis, int) or not -len(found) <= axis <= len(found):
        raise Standback("its axis is not known")
    if axis < 0:
        axis += len(found)
    sheet.put(node.outputs[0], [product(found[:axis]), product(found[axis:])])


def product(parts: Sequence[Axis]) -> Axis:
    """Return axes multiplied together."""
    return axes.resolve(Prod(tuple(p for p in parts if p != ONE)))


def regroup(
    sheet: Sheet, node: gs.Node, found: Sequence[Axis], lengths: Sequence[Dim]
) -> list[Axis]:
    """Return the axes of a reshaped tensor.

    Args:
        sheet: Where they are written down.
        node: The node, for reasons.
        found: Axes of the tensor.
        lengths: Lengths of the result; `=i` copies axis i, None is not known.
    """
    before: list[Dim] = [_length(sheet, node, i, a) for i, a in enumerate(found)]
    made: list[Axis | None] = [None] * len(lengths)
    i, j = _from_last(sheet, node, found, before, lengths, made)
    first = 0
    while first < min(i, j) and _same(before[first], lengths[first], first):
        made[first] = found[first]
        first += 1
    _middle(sheet, node, list(found[first:i]), list(lengths[first:j]), made, first)
    return [ONE if a is None else a for a in made]


def _length(sheet: Sheet, node: gs.Node, index: int, axis: Axis) -> Dim:
    known = axes.size(axis)
    if known is not None:
        return known
    dims = shapes.dims(node.inputs[0])
    return None if dims is None else dims[index]


def _same(before: Dim, after: Dim, index: int) -> bool:
    return after == f"={index}" or (before is not None and before == after)


def _from_last(
    sheet: Sheet,
    node: gs.Node,
    found: Sequence[Axis],
    before: Sequence[Dim],
    lengths: Sequence[Dim],
    made: list[Axis | None],
) -> tuple[int, int]:
    """Match blocks of one length from the last axis on; return how many axes are left."""
    i, j = len(before), len(lengths)
    while i and j:
        block = _block(before[:i], lengths[:j])
        if block is None and not _same(before[i - 1], lengths[j - 1], i - 1):
            break
        end, stop = block or (i - 1, j - 1)
        if block is None:
            made[stop] = found[end]
        else:
            _factor(sheet, node, found[end:i], lengths[stop:j], made, stop)
        i, j = end, stop
    return i, j


def _block(before: Sequence[Dim], lengths: Sequence[Dim]) -> tuple[int, int] | None:
    """Return where the last axes of both begin that have one product; None where none is known."""
    i, j = len(before), len(lengths)
    p = q = 1
    while p != q or i == len(before) or j == len(lengths):
        left = p < q or (p == q and i == len(before))
        if (i if left else j) == 0:
            return (i, j) if p == q and (i, j) != (len(before), len(lengths)) else None
        if left:
            i -= 1
            length = before[i]
        else:
            j -= 1
            length = lengths[j]
        if not isinstance(length, int) or length == 0:
            return None
        p, q = (p * length, q) if left else (p, q * length)
    return i, j


def _factor(
    sheet: Sheet,
    node: gs.Node,
    found: Sequence[Axis],
    lengths: Sequence[Dim],
    made: list[Axis | None],
    offset: int,
) -> None:
    """Write a block's product as factors of the wanted lengths; the first may be open."""
    rest: Axis = Prod(tuple(found))
    for k in reversed(range(len(lengths))):
        length = lengths[k]
        if k == 0 and not isinstance(length, int):
            made[offset] = axes.resolve(rest)
            return
        parts = tail(rest, length) if isinstance(length, int) else None
        if parts is None:
            _freeze(sheet, node, found, lengths, made, offset)
            return
        rest, made[offset + k] = parts


def _freeze(
    sheet: Sheet,
    node: gs.Node,
    found: Sequence[Axis],
    lengths: Sequence[Dim],
    made: list[Axis | None],
    offset: int,
) -> None:
    for axis in found:
        sheet.freeze(axis, node, "its factors are not known")
    for k, length in enumerate(lengths):
        made[offset + k] = axes.new(
            length if isinstance(length, int) else None,
            f"its factors are not known ({node.op} {node.name!r})",
        )


def _middle(
    sheet: Sheet,
    node: gs.Node,
    found: list[Axis],
    lengths: list[Dim],
    made: list[Axis | None],
    offset: int,
) -> None:
    """Match what is left, where lengths are missing: only a leading factor can be told."""
    if not found and not lengths:
        return
    if [isinstance(n, int) for n in lengths] == [False] + [True] * (len(lengths) - 1):
        _factor(sheet, node, found, lengths, made, offset)
        return
    lead, length = (axes.size(found[0]) if found else None), (lengths[0] if lengths else None)
    whole = isinstance(length, int) and lead is not None and min(length, lead) > 1
    if whole and isinstance(length, int) and lead is not None:
        if lead % length == 0 and (parts := tail(found[0], lead // length)) is not None:
            made[offset] = parts[0]
            found[0] = parts[1]
            lengths, offset = lengths[1:], offset + 1
        elif length % lead == 0:
            inner = axes.new(length // lead, f"its factors are not known ({node.op} {node.name!r})")
            made[offset] = Prod((found[0], inner))
            found, lengths, offset = found[1:], lengths[1:], offset + 1
    _freeze(sheet, node, found, lengths, made, offset)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {"Reshape": reshape, "Flatten": flatten}

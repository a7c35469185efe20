"""Ops that put axes together and take parts of them: Concat, Split, Slice, Gather, Pad."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.algebra import split, tail
from onnxopt_passes.prune.axes import NOTHING, ONE, Sum
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.sheet import Indices, Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis

MOST_RUNS = 256
"""Runs of consecutive indices in a Gather beyond which it counts as having no order."""

SIZES_AS_INPUT = 13
"""From this opset on, Split takes its sizes as an input."""

FROM_OTHERS = 18
"""From this opset on, Pad may name the axes it pads."""


def place(node: gs.Node, axis: object, rank: int) -> int:
    """Return an axis counted from the first.

    Raises:
        Standback: It is no number, or there is no such axis.
    """
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise Standback("its axis is not known")
    return axis % rank


def concat(sheet: Sheet, node: gs.Node) -> None:
    """Concat: a sum along one axis; the others are the same."""
    found = [sheet.axes(t) for t in node.inputs]
    at = place(node, node.attrs.get("axis", 1 if sheet.opset < 4 else None), len(found[0]))
    if len({len(f) for f in found}) > 1:
        raise Standback("its inputs differ in rank")
    made = list(found[0])
    for other in found[1:]:
        for i, (a, b) in enumerate(zip(made, other, strict=True)):
            if i != at:
                sheet.unify(a, b, node)
    terms = [f[at] for f in found]
    if any(axes.size(t) is None for t in terms):
        for term in terms:
            sheet.freeze(term, node, "lies beside an axis whose length is not known")
        made[at] = axes.new(None)
    else:
        made[at] = Sum(tuple(terms))
    sheet.put(node.outputs[0], made)


def split_parts(sheet: Sheet, node: gs.Node) -> None:
    """Split: the axis is cut at the sizes, which follow; without any they are written down."""
    found = sheet.axes(node.inputs[0])
    at = place(node, node.attrs.get("axis", 0), len(found))
    whole, count = axes.size(found[at]), len(node.outputs)
    if whole is None:
        raise Standback("the length of what it splits is not known")
    sizes = match.integers(node, 1, "split")
    if sizes is None:
        if match.given(node, 1):
            raise Standback("its sizes are computed")
        each = -(-whole // count)
        sizes = [each] * (whole // each) + ([whole % each] if whole % each else [])
    if sum(sizes) != whole or len(sizes) != count:
        raise Standback("its sizes do not add up")
    parts = _cut(sheet, node, found[at], sizes)
    for i, (out, part) in enumerate(zip(node.outputs, parts, strict=True)):
        sheet.number(node, "split" if sheet.opset < SIZES_AS_INPUT else 1, i, part)
        sheet.put(out, [*found[:at], part, *found[at + 1 :]])


def _cut(sheet: Sheet, node: gs.Node, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Cut an axis into parts; where it cannot be cut there, it is frozen."""
    parts: list[Axis] = []
    rest = axis
    for length in sizes:
        cut = split(rest, length)
        if cut is None:
            sheet.freeze(axis, node, "cut across blocks")
            return [axes.new(n, f"cut across blocks ({node.op} {node.name!r})") for n in sizes]
        parts.append(cut[0])
        rest = cut[1]
    return parts


def slices(sheet: Sheet, node: gs.Node) -> None:
    """Slice with constant bounds: a middle part, or every n-th index."""
    found = list(sheet.axes(node.inputs[0]))
    bounds = [match.integers(node, i + 1, n) for i, n in enumerate(("starts", "ends"))]
    over, steps = (match.integers(node, i + 3, n) for i, n in enumerate(("axes", "steps")))
    if over is None and not match.given(node, 3) and bounds[0] is not None:
        over = list(range(len(bounds[0])))
    computed = bounds[0] is None or bounds[1] is None or (steps is None and match.given(node, 4))
    if over is None:
        raise Standback("its axes are computed")
    known = shapes.dims(node.outputs[0]) or (None,) * len(found)
    for i, axis in enumerate(over):
        at = place(node, axis, len(found))
        length = axes.size(found[at])
        if computed or length is None:
            sheet.freeze(found[at], node, "sliced at a computed place")
            dim = known[at]
            found[at] = axes.new(dim if isinstance(dim, int) else None, "sliced")
            continue
        limits = slice(bounds[0][i], bounds[1][i], steps[i] if steps else 1)  # type: ignore[index]
        found[at] = _part(sheet, node, found[at], range(length)[limits], i)
    sheet.put(node.outputs[0], found)


def _part(sheet: Sheet, node: gs.Node, axis: Axis, chosen: range, index: int) -> Axis:
    """Return the part of an axis that a Slice takes, and make its bounds follow."""
    length = axes.size(axis) or 0
    if len(chosen) == length and chosen.step == 1:
        return axis
    if chosen.step == 1:
        before, part, _ = _cut(
            sheet, node, axis, [chosen.start, len(chosen), length - chosen.start - len(chosen)]
        )
        names = ("starts", "ends") if "starts" in node.attrs else (1, 2)
        if chosen.start:
            sheet.number(node, names[0], index, before)
        sheet.number(node, names[1], index, Sum((before, part)))
        return part
    factors = tail(axis, chosen.step) if chosen.step > 1 and length % chosen.step == 0 else None
    if factors is not None and chosen.start < chosen.step and len(chosen) * chosen.step == length:
        sheet.freeze(factors[1], node, "every n-th index is taken")
        return factors[0]
    sheet.freeze(axis, node, "taken in steps")
    return axes.new(len(chosen), f"taken in steps ({node.op} {node.name!r})")


def gather(sheet: Sheet, node: gs.Node) -> None:
    """Gather: constant lists permute and take parts; other indices freeze what they look up."""
    found = sheet.axes(node.inputs[0])
    at = place(node, node.attrs.get("axis", 0), len(found))
    values = match.constant(node.inputs[1])
    for i in range(len(found)):
        sheet.role(node.inputs[0], i, Role.PRODUCER)
    if values is not None and values.ndim == 1 and axes.size(found[at]) is not None:
        made = _taken(sheet, node, found[at], values)
        sheet.put(node.outputs[0], [*found[:at], made, *found[at + 1 :]])
        return
    sheet.freeze(found[at], node, "looked up by index")
    index = sheet.axes(node.inputs[1])
    sheet.put(node.outputs[0], [*found[:at], *index, *found[at + 1 :]])


def _taken(sheet: Sheet, node: gs.Node, axis: Axis, values: np.ndarray) -> Axis:
    """Return what a constant list of indices takes of an axis."""
    length = axes.size(axis) or 0
    index = np.where(values < 0, values + length, values).astype(np.int64)
    made = _shuffled(axis, index, length)
    if made is None:
        made = _runs(axis, index, length)
    if made is None:
        sheet.freeze(axis, node, "looked up in no regular order")
        return axes.new(len(index), f"looked up in no regular order ({node.op} {node.name!r})")
    sheet.indices.append(Indices(node, axis, made))
    return made


def _shuffled(axis: Axis, index: np.ndarray, length: int) -> Axis | None:
    """Return a x b where the indices are those of b x a transposed: a channel shuffle."""
    if len(index) != length or length < 4 or index[0] != 0:
        return None
    step = int(index[1])
    if step < 2 or length % step:
        return None
    wanted = np.arange(length).reshape(-1, step).T.reshape(-1)
    parts = tail(axis, step) if np.array_equal(index, wanted) else None
    return None if parts is None else axes.Prod((parts[1], parts[0]))


def _runs(axis: Axis, index: np.ndarray, length: int) -> Axis | None:
    """Return the parts that runs of consecutive indices take, one behind the other."""
    if not len(index) or index.min() < 0 or index.max() >= length:
        return None
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
    stops = np.append(starts[1:], len(index))
    if len(starts) > MOST_RUNS:
        return None
    spans = [(int(index[s]), int(index[e - 1]) + 1) for s, e in zip(starts, stops, strict=True)]
    bounds = sorted({0, length, *(b for span in spans for b in span)})
    pieces: dict[int, Axis] = {}
    rest = axis
    for start, stop in itertools.pairwise(bounds):
        cut = split(rest, stop - start)
        if cut is None:
            return None
        pieces[start], rest = cut
    return Sum(tuple(pieces[b] for s, e in spans for b in bounds if s <= b < e))


def pad(sheet: Sheet, node: gs.Node) -> None:
    """Pad: what is put before and behind an axis shrinks on its own."""
    found = list(sheet.axes(node.inputs[0]))
    amounts = match.integers(node, 1, "pads")
    over = match.integers(node, 3, "axes") if sheet.opset >= FROM_OTHERS else None
    if match.given(node, 3) and sheet.opset >= FROM_OTHERS and over is None:
        raise Standback("its axes are computed")
    padded = [a % len(found) for a in over] if over is not None else list(range(len(found)))
    slot: str | int = "pads" if "pads" in node.attrs else 1
    constant = node.attrs.get("mode", "constant") == "constant"
    known = shapes.dims(node.outputs[0]) or (None,) * len(found)
    if amounts is not None and len(amounts) != 2 * len(padded):
        raise Standback("its pads do not fit its axes")
    for i, at in enumerate(padded):
        both = None if amounts is None else (amounts[i], amounts[i + len(padded)])
        if both == (0, 0):
            continue
        if both is None or not constant or min(both) < 0 or axes.size(found[at]) is None:
            sheet.freeze(found[at], node, "padded")
            dim = known[at]
            found[at] = axes.new(dim if isinstance(dim, int) else None, "padded")
            continue
        before, behind = (NOTHING if n == 0 else axes.new(n) for n in both)
        for part, where in ((before, i), (behind, i + len(padded))):
            if part not in (NOTHING, ONE):
                sheet.number(node, slot, where, part)
        found[at] = Sum((before, found[at], behind))
    sheet.put(node.outputs[0], found)


def gather_elements(sheet: Sheet, node: gs.Node) -> None:
    """GatherElements: the axis that is looked up is frozen, others are those of the indices."""
    found, index = sheet.axes(node.inputs[0]), sheet.axes(node.inputs[1])
    at = place(node, node.attrs.get("axis", 0), len(found))
    sheet.freeze(found[at], node, "looked up by index")
    sheet.freeze(index[at], node, "indices")
    for i, (a, b) in enumerate(zip(found, index, strict=True)):
        if i != at:
            sheet.unify(a, b, node)
    sheet.put(node.outputs[0], index)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    "Concat": concat,
    "Split": split_parts,
    "Slice": slices,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Pad": pad,
}

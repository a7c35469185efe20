"""Concats and Slices that nest, and parts that are put together again.

Concat(.., Concat(..), ..)             -> Concat(.., .., ..)          same axis
Slice(Slice(x))                        -> Slice(x)
Concat(Split(x))                       -> x       all parts, in order, same axis
Concat(x[:a], x[a:b], .., x[z:])       -> x
Slice(Concat(a, b, ..)) that is just b -> b       all sizes before it known
Split(Concat(a, b, ..))                -> a, b, ..          parts of the same known sizes

On one axis, x[s:e:t][s':e':t'] = x[s+s't : min(e, s+e't) : tt'] for steps above 0 and numbers that
count from the front. Numbers that count from the end are merged only where the other Slice does
not move that end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes, cuts
from onnxopt_passes.clean.bypass import bypass
from onnxopt_passes.clean.cuts import Cut

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def merge_concats(graph: gs.Graph, node: gs.Node) -> bool:
    """Put the inputs of Concats that only this one reads in their places."""
    found = {
        id(t): inner.inputs
        for t in node.inputs
        if (inner := match.sole(graph, t, "Concat")) is not None and _same_axis(node, inner, t)
    }
    if not found:
        return False

    node.inputs = [part for t in node.inputs for part in found.get(id(t), [t])]
    return True


def _same_axis(one: gs.Node, other: gs.Node, tensor: gs.Tensor, default: int | None = None) -> bool:
    """Whether two nodes work on the same axis of tensors of the rank of `tensor`."""
    a, b = axes.integer(one, "axis", default), axes.integer(other, "axis", default)
    return a is not None and b is not None and axes.same([a], [b], axes.rank(tensor))


def merge_slices(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one Slice of two in a row."""
    inner = match.sole(graph, node.inputs[0], "Slice")
    if inner is None:
        return False
    first, second = cuts.read(inner), cuts.read(node)
    if not first or not second or (min(first) < 0) != (min(second) < 0):
        return False
    merged = dict(first)
    for axis, cut in second.items():
        both = _compose(first[axis], cut) if axis in first else cut
        if both is None:
            return False
        merged[axis] = both

    node.inputs = [inner.inputs[0], *node.inputs[1:]]
    cuts.write(graph, node, merged)
    return True


def _compose(first: Cut, second: Cut) -> Cut | None:
    """Return the range that is a range of a range, None if that depends on the axis' size."""
    if first.step < 1 or second.step < 1 or first.start < 0 or second.start < 0:
        return None
    start = first.start + second.start * first.step
    step = first.step * second.step
    if second.end >= cuts.ALL:
        return _range(start, first.end, step)
    if second.end < 0 or (first.end < 0):
        return None
    return _range(start, min(first.end, first.start + second.end * first.step), step)


def _range(start: int, end: int, step: int) -> Cut | None:
    return Cut(start, end, step) if max(start, step) <= cuts.ALL else None


def join_split(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace a Concat of all parts of a Split by what was split."""
    split = match.producer(node.inputs[0])
    if split is None or not match.is_op(split, "Split"):
        return False
    if len(split.outputs) != len(node.inputs):
        return False
    if any(a is not b for a, b in zip(split.outputs, node.inputs, strict=True)):
        return False
    one, other = axes.integer(split, "axis", 0), axes.integer(node, "axis")
    if one is None or other is None:
        return False
    rank = axes.rank(split.inputs[0])
    return axes.same([one], [other], rank) and bypass(graph, node, split.inputs[0])


def join_slices(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace a Concat of Slices that cover a tensor, in order and without gaps, by the tensor."""
    axis = axes.integer(node, "axis")
    source = _sliced(node.inputs[0])
    if axis is None or source is None or any(_sliced(t) is not source for t in node.inputs):
        return False
    chosen = axes.normal([axis], axes.rank(source))
    found = [_only_cut(t, chosen or [axis]) for t in node.inputs]
    parts = [c for c in found if c is not None]
    if len(parts) < len(found) or any(c.step != 1 for c in parts):
        return False
    size = axes.size(source, axis)
    bounds = [c.end for c in parts[:-1]]
    first, last = Cut(parts[0].start, cuts.ALL), Cut(0, parts[-1].end)
    if not first.whole(size) or not last.whole(size) or bounds != [c.start for c in parts[1:]]:
        return False
    # 3 and -2 may come in either order: it depends on the size.
    ordered = bounds == sorted(bounds) and (min(bounds) < 0) == (max(bounds) < 0)
    return ordered and bypass(graph, node, source)


def _sliced(tensor: gs.Tensor) -> gs.Tensor | None:
    """Return what a Slice that makes a tensor reads."""
    maker = match.producer(tensor)
    return maker.inputs[0] if maker is not None and match.is_op(maker, "Slice") else None


def _only_cut(tensor: gs.Tensor, axis: list[int]) -> Cut | None:
    """Return the range that the Slice above takes from an axis, None if it takes others as well."""
    maker = match.producer(tensor)
    found = None if maker is None else cuts.read(maker)
    return found[axis[0]] if found is not None and list(found) == axis else None


def take_part(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace a Slice that takes just one of the tensors put together above by that tensor."""
    concat = match.producer(node.inputs[0])
    if concat is None or not match.is_op(concat, "Concat"):
        return False
    axis, found = axes.integer(concat, "axis"), cuts.read(node)
    if axis is None or not found or len(found) != 1:
        return False
    (sliced, cut), *_ = found.items()
    if cut.step != 1 or cut.start < 0 or not axes.same([axis], [sliced], axes.rank(node.inputs[0])):
        return False
    part = _part(concat, axis, cut)
    return part is not None and bypass(graph, node, part)


def _part(concat: gs.Node, axis: int, cut: Cut) -> gs.Tensor | None:
    """Return the input of a Concat that is just that range of its output."""
    offset = 0
    for i, tensor in enumerate(concat.inputs):
        size = axes.size(tensor, axis)
        last = i == len(concat.inputs) - 1
        if offset == cut.start and size is not None and cut.end == offset + size:
            return tensor
        if offset == cut.start and last and cut.end >= cuts.ALL:
            return tensor
        if size is None:
            return None
        offset += size
    return None


def take_parts(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace the parts of a Split by the tensors that were put together above, one for one."""
    concat = match.producer(node.inputs[0])
    if concat is None or not match.is_op(concat, "Concat"):
        return False
    parts, axis = node.outputs, axes.integer(concat, "axis")
    if axis is None or not _same_axis(concat, node, node.inputs[0], default=0):
        return False
    sizes = [[axes.size(t, axis) for t in tensors] for tensors in (parts, concat.inputs)]
    if None in sizes[0] or sizes[0] != sizes[1] or any(match.fetched(t) for t in parts):
        return False

    for part, tensor in zip(parts, concat.inputs, strict=True):
        match.replace(part, tensor)
    match.remove(node)
    return True


RULES: tuple[Rule, ...] = (
    Rule("merge_concats", ("Concat",), merge_concats),
    Rule("merge_slices", ("Slice",), merge_slices),
    Rule("join_split", ("Concat",), join_split),
    Rule("join_slices", ("Concat",), join_slices),
    Rule("take_part", ("Slice",), take_part),
    Rule("take_parts", ("Split",), take_parts),
)
"""In the order in which they are tried."""

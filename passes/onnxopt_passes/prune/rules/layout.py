"""Ops that move axes about: Transpose, Squeeze, DepthToSpace, Expand, Tile and their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.algebra import tail
from onnxopt_passes.prune.axes import ONE, Prod
from onnxopt_passes.prune.origins import Place, follow, origins
from onnxopt_passes.prune.rules.reshape import product
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis


def squeeze(sheet: Sheet, node: gs.Node) -> None:
    """Drop axes of length 1."""
    found = sheet.axes(node.inputs[0])
    over = match.integers(node, 1, "axes")
    if over is None:
        if match.given(node, 1) or any(axes.size(a) is None for a in found):
            raise Standback("its axes are not known")
        over = [i for i, a in enumerate(found) if a == ONE]
    gone = {a % len(found) for a in over} if found else set()
    sheet.put(node.outputs[0], [a for i, a in enumerate(found) if i not in gone])


def unsqueeze(sheet: Sheet, node: gs.Node) -> None:
    """Put in axes of length 1."""
    found = list(sheet.axes(node.inputs[0]))
    over = match.integers(node, 1, "axes")
    if over is None:
        raise Standback("its axes are computed")
    rank = len(found) + len(over)
    for axis in sorted(a % rank for a in over):
        found.insert(axis, ONE)
    sheet.put(node.outputs[0], found)


def transpose(sheet: Sheet, node: gs.Node) -> None:
    """Permute axes."""
    found = sheet.axes(node.inputs[0])
    perm = node.attrs.get("perm", list(range(len(found)))[::-1])
    if not isinstance(perm, list) or sorted(perm) != list(range(len(found))):
        raise Standback("its permutation is not known")
    sheet.put(node.outputs[0], [found[p] for p in perm])


def depth_to_space(sheet: Sheet, node: gs.Node) -> None:
    """Take the block out of the channels: leading factors in mode DCR, trailing ones in CRD."""
    found = sheet.axes(node.inputs[0])
    block, channels = node.attrs.get("blocksize"), axes.size(found[1])
    if not isinstance(block, int) or channels is None or channels % (block * block):
        raise Standback("its block is not known")
    last = node.attrs.get("mode", "DCR") == "CRD"
    square = block * block
    parts = tail(found[1], square if last else channels // square)
    if parts is None:
        raise Standback("its channels cannot be factored")
    kept, moved = parts if last else (parts[1], parts[0])
    sheet.freeze(moved, node, "becomes space")
    _moved(sheet, node, found, kept)


def space_to_depth(sheet: Sheet, node: gs.Node) -> None:
    """Put a block of space before the channels."""
    found = sheet.axes(node.inputs[0])
    block = node.attrs.get("blocksize")
    if not isinstance(block, int):
        raise Standback("its block is not known")
    inner = axes.new(block * block, f"was space ({node.op} {node.name!r})")
    _moved(sheet, node, found, Prod((inner, found[1])))


def _moved(sheet: Sheet, node: gs.Node, found: Sequence[Axis], channels: Axis) -> None:
    known = shapes.dims(node.outputs[0]) or (None,) * len(found)
    for axis in found[2:]:
        sheet.freeze(axis, node, "spatial axis")
    rest = [axes.new(d if isinstance(d, int) else None, "spatial axis") for d in known[2:]]
    sheet.put(node.outputs[0], [found[0], channels, *rest])


def expand(sheet: Sheet, node: gs.Node) -> None:
    """Repeat axes of length 1: what is repeated is frozen, unless a constant fills a shape."""
    found = list(sheet.axes(node.inputs[0]))
    target = origins(node, 1)
    known = shapes.dims(node.outputs[0])
    if target is None or known is None:
        raise Standback("the rank of its result is unknown")
    fills = match.constant(node.inputs[0]) is not None and all(a == ONE for a in found)
    found = [ONE] * (len(known) - len(found)) + found
    made: list[Axis] = []
    for i, (axis, dim) in enumerate(zip(found, known, strict=True)):
        place = i - len(known) + len(target)
        origin = target[place] if place >= 0 else Place(node, 1, 0, 1)
        if axis == ONE and dim != 1:
            reason = None if fills else "copies of one another"
            axis = axes.new(dim if isinstance(dim, int) else None, reason)
        if axes.inner(axis) != ONE:
            follow(sheet, origin, axis, node)
        made.append(axis)
    sheet.put(node.outputs[0], made)


def tile(sheet: Sheet, node: gs.Node) -> None:
    """Repeat whole axes: copies x axis."""
    found = sheet.axes(node.inputs[0])
    repeats = match.constant(node.inputs[1]) if len(node.inputs) == 2 else None
    if repeats is None:
        for axis in found:
            sheet.freeze(axis, node, "repeated a computed number of times")
        sheet.put(node.outputs[0], [axes.new(None) for _ in found])
        return
    made: list[Axis] = []
    for axis, count in zip(found, repeats.reshape(-1).tolist(), strict=True):
        copies = axes.new(count, f"copies of one another ({node.op} {node.name!r})")
        made.append(axis if count == 1 else product([copies, axis]))
    sheet.put(node.outputs[0], made)


def constant_of_shape(sheet: Sheet, node: gs.Node) -> None:
    """Fill a shape."""
    target, known = origins(node, 0), shapes.dims(node.outputs[0])
    if target is None or known is None:
        raise Standback("the rank of its result is unknown")
    made = []
    for origin, dim in zip(target, known, strict=True):
        axis = axes.new(dim if isinstance(dim, int) else None)
        if axes.inner(axis) != ONE:
            follow(sheet, origin, axis, node)
        made.append(axis)
    sheet.put(node.outputs[0], made)


def shape(sheet: Sheet, node: gs.Node) -> None:
    """Lengths as numbers: they are followed where they are used."""
    found = shapes.dims(node.outputs[0])
    if found is None:
        raise Standback("the rank of its input is unknown")
    length = found[0] if found else 1
    sheet.put(
        node.outputs[0], [axes.new(length if isinstance(length, int) else None, "axes of a tensor")]
    )


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape,
}

"""Where the numbers of a shape come from: a constant that can be rewritten, or a tensor's axis.

A Reshape to a constant, or to Concat(Gather(Shape(x)), [8], [64]), has to be told new sizes when
channels go. What is read off another tensor follows by itself, provided that the axis that it is
read off and the one that is made are the same. A size that goes into arithmetic is not followed:
its axis is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnxopt import match, shapes
from onnxopt.model import ir

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis
    from onnxopt_passes.prune.sheet import Sheet

DEPTH = 32
"""Longest chain of nodes that is followed."""

SAME = ("Unsqueeze", "Squeeze", "Identity", "Cast", "Reshape")
"""Ops that hand the elements of a small integer tensor on as they are."""

SHAPED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
"""Ops whose rules follow each element of a shape, and the input that it is."""


NUMBERS = {
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "Unsqueeze"), (1,)),
    **dict.fromkeys(("ConstantOfShape", "Range"), (0, 1, 2)),
    "Pad": (1, 3),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Upsample": (1,),
}
"""Inputs that are lists of numbers: their elements are counted, not contracted."""


@dataclass(frozen=True)
class Place:
    """A number in a constant: element `place` of input `slot` of `node`."""

    node: gs.Node
    slot: int
    place: int
    value: int


@dataclass(frozen=True)
class Length:
    """The length of an axis of a tensor."""

    tensor: gs.Tensor
    axis: int


Origin: TypeAlias = "Place | Length | None"


def origins(node: gs.Node, slot: int, depth: int = DEPTH) -> list[Origin] | None:
    """Return where each element of an integer input of rank 0 or 1 comes from.

    An element is None where it is computed in a way that is not followed; the whole is None if
    not even its length is known.
    """
    tensor = node.inputs[slot]
    values = match.constant(tensor)
    if values is not None:
        if not isinstance(tensor, ir.Constant):
            return [None] * values.size
        return [Place(node, slot, i, int(v)) for i, v in enumerate(values.reshape(-1))]
    found = _computed(match.producer(tensor), depth)
    if found is not None:
        return found
    length = shapes.static(tensor)
    if length is None or len(length) > 1:
        return None
    return [None] * (length[0] if length else 1)


def _computed(node: gs.Node | None, depth: int) -> list[Origin] | None:
    if node is None or depth == 0:
        return None
    if match.is_op(node, "Shape"):
        return _lengths(node)
    if match.is_op(node, *SAME):
        return origins(node, 0, depth - 1)
    if match.is_op(node, "Concat"):
        parts = [origins(node, i, depth - 1) for i in range(len(node.inputs))]
        return [o for p in parts if p for o in p] if all(p is not None for p in parts) else None
    if match.is_op(node, "Gather", "Slice"):
        base, chosen = origins(node, 0, depth - 1), _chosen(node)
        if base is None or chosen is None:
            return None
        index = list(range(len(base)))[chosen] if isinstance(chosen, slice) else chosen
        return [base[i] for i in index] if all(-len(base) <= i < len(base) for i in index) else None
    return None


def _lengths(node: gs.Node) -> list[Origin] | None:
    known = shapes.dims(node.inputs[0])
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    if known is None or not isinstance(start, int) or not isinstance(end, int | None):
        return None
    return [Length(node.inputs[0], i) for i in range(len(known))[start:end]]


def _chosen(node: gs.Node) -> list[int] | slice | None:
    """Return which elements of a 1-D tensor a Gather or a Slice takes."""
    if node.op == "Gather":
        values = match.constant(node.inputs[1])
        return None if values is None else [int(v) for v in values.reshape(-1)]
    defaults: tuple[list[int | None], ...] = ([None], [None], [0], [1])
    names = ("starts", "ends", "axes", "steps")
    found = [match.integers(node, i + 1, name) for i, name in enumerate(names)]
    for i, value in enumerate(found):
        if value is None and (i < 2 or match.given(node, i + 1)):
            return None
    start, end, _, step = ((d if f is None else f)[0] for f, d in zip(found, defaults, strict=True))
    return slice(start, end, step)


def follow(sheet: Sheet, origin: Origin, axis: Axis, node: gs.Node) -> None:
    """Make a number follow the axis whose length it is, or freeze the axis.

    A constant -1 (which onnxruntime works out) or 1 needs nothing.
    """
    if isinstance(origin, Place):
        if origin.value > 1:
            shared = match.is_op(origin.node, "Concat") and _reads(node, origin.node)
            reader = node if shared else None
            sheet.number(origin.node, origin.slot, origin.place, axis, reader=reader)
    elif isinstance(origin, Length):
        sheet.unify(sheet.axes(origin.tensor)[origin.axis], axis, node)
    else:
        sheet.freeze(axis, node, "its length is computed")


def _reads(node: gs.Node, maker: gs.Node) -> bool:
    return any(tensor is maker.outputs[0] for tensor in node.inputs)


def freeze_numbers(sheet: Sheet, node: gs.Node) -> None:
    """Freeze the axis along which the numbers lie that a node takes: a shape, bounds, sizes."""
    for slot in NUMBERS.get(node.op, ()):
        if match.given(node, slot):
            for axis in sheet.known(node.inputs[slot]) or ():
                sheet.freeze(axis, node, "lists numbers")


def freeze_computed(sheet: Sheet, shape: gs.Node) -> None:
    """Freeze the axes whose lengths go from a Shape node into anything but shapes."""
    tensor = shape.inputs[0]
    known = sheet.known(tensor)
    found = _lengths(shape)
    if known is None:
        return
    chosen = list(known) if found is None else [known[o.axis] for o in found]  # type: ignore[union-attr]
    _freeze_leaks(sheet, shape.outputs[0], chosen, set())


def _freeze_leaks(sheet: Sheet, tensor: gs.Tensor, chosen: list[Axis], seen: set[int]) -> None:
    if match.fetched(tensor):
        for axis in chosen:
            sheet.freeze(axis, tensor.inputs[0], "its length is a result")
    for node in {id(n): n for n in tensor.outputs}.values():
        if id(node) in seen or _followed(node, tensor):
            continue
        seen.add(id(node))
        if match.is_op(node, *SAME, "Concat"):
            _freeze_leaks(sheet, node.outputs[0], chosen, seen)
        elif match.is_op(node, "Gather", "Slice") and node.inputs[0] is tensor:
            _freeze_leaks(sheet, node.outputs[0], _picked(node, chosen), seen)
        else:
            for axis in chosen:
                sheet.freeze(axis, node, "its length is computed with")


def _followed(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node only reads the shape of a tensor, or takes it as a shape."""
    if match.is_op(node, "Shape"):
        return True
    return match.is_op(node, *SHAPED) and node.inputs[SHAPED[node.op]] is tensor


def _picked(node: gs.Node, chosen: list[Axis]) -> list[Axis]:
    """Return what a Gather or a Slice takes of some axes; all of them where that is not known."""
    index = _chosen(node)
    if isinstance(index, slice):
        return chosen[index]
    if index is not None and all(-len(chosen) <= i < len(chosen) for i in index):
        return [chosen[i] for i in index]
    return chosen

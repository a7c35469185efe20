"""Pools and Resize: channels pass, space is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.origins import follow, origins
from onnxopt_passes.prune.rules.layers import spatial
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis

POOLS = (
    *("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"),
)

SIZES = {"Resize": 3, "Upsample": None}
"""The input that has the sizes of the result."""


def pool(sheet: Sheet, node: gs.Node) -> None:
    """Pools over space; flat indices of maxima freeze the channels."""
    found = sheet.axes(node.inputs[0])
    if len(found) < 2:
        raise Standback("it has no channels")
    for axis in found[2:]:
        sheet.freeze(axis, node, "spatial axis")
    if any(t.name and (t.outputs or match.fetched(t)) for t in node.outputs[1:]):
        sheet.freeze(found[1], node, "flat indices count channels")
    spatial(sheet, node, found, found[1])


def resize(sheet: Sheet, node: gs.Node) -> None:
    """Resize and Upsample: an axis whose length stays passes."""
    found = sheet.axes(node.inputs[0])
    known = shapes.dims(node.outputs[0])
    if known is None:
        raise Standback("the rank of its result is unknown")
    made: list[Axis] = []
    for i, (axis, dim) in enumerate(zip(found, known, strict=True)):
        if isinstance(dim, int) and axes.size(axis) == dim and (i == 1 or dim == 1):
            made.append(axis)
            continue
        sheet.freeze(axis, node, "spatial axis")
        made.append(axes.new(dim if isinstance(dim, int) else None, "spatial axis"))
    slot = SIZES[node.op]
    if slot is not None and match.given(node, slot):
        over = node.attrs.get("axes", list(range(len(found))))
        places = origins(node, slot)
        if not isinstance(over, list) or places is None or len(places) != len(over):
            raise Standback("its sizes are not known")
        for origin, axis in zip(places, over, strict=True):
            if axes.size(made[axis]) not in (None, 1):
                follow(sheet, origin, made[axis], node)
    sheet.put(node.outputs[0], made)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    **dict.fromkeys(POOLS, pool),
    "Resize": resize,
    "Upsample": resize,
}

"""Ops that look along an axis: normalizations, softmax, reductions, searches.

An axis over which a maximum is taken is frozen, since the result would change; so is one over which
a mean is taken, unless the pass is told that it may make up for that. A sum is a contraction, and
what is removed from it is what it lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.axes import ONE, Prod
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
"""Reductions to which a zero adds nothing."""

OTHERS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")

FLATTENED = 13
"""Before this opset, Softmax and its kin took all axes from `axis` on as one."""


def along(sheet: Sheet, node: gs.Node) -> None:
    """Ops of one tensor that look along `axis`: Softmax, LpNormalization, CumSum, TopK, ..."""
    found = sheet.axes(node.inputs[0])
    default = (
        1 if node.op in ("Hardmax", "LogSoftmax", "Softmax") and sheet.opset < FLATTENED else -1
    )
    axis = node.attrs.get("axis", 0 if node.op in ("ArgMax", "ArgMin") else default)
    if node.op == "CumSum":
        axis = match.scalar(node.inputs[1])
    if not isinstance(axis, int) or not -len(found) <= axis < len(found):
        raise Standback("its axis is not known")
    axis %= len(found)
    last = len(found) if default == 1 else axis + 1
    for looked in found[axis:last]:
        sheet.freeze(looked, node, "looks along the axis")
    _results(sheet, node, found, axis)


def _results(sheet: Sheet, node: gs.Node, found: tuple[Axis, ...], axis: int) -> None:
    if node.op == "TopK":
        from onnxopt import shapes

        for out in node.outputs:
            known = (shapes.dims(out) or (None,) * len(found))[axis]
            made = list(found)
            made[axis] = axes.new(known if isinstance(known, int) else None, "chosen by TopK")
            sheet.put(out, made)
        return
    made = list(found)
    if node.op in ("ArgMax", "ArgMin"):
        made[axis : axis + 1] = [ONE] if node.attrs.get("keepdims", 1) else []
    for out in node.outputs:
        sheet.put(out, made)


def layer_norm(sheet: Sheet, node: gs.Node) -> None:
    """LayerNormalization and RMSNormalization: the width is frozen, its scale and bias follow."""
    found = sheet.axes(node.inputs[0])
    axis = node.attrs.get("axis", -1)
    if not isinstance(axis, int) or not -len(found) <= axis < len(found):
        raise Standback("its axis is not known")
    axis %= len(found)
    for tensor in node.inputs[1:]:
        if tensor.name:
            shape = sheet.axes(tensor)
            for a, b in zip(reversed(shape), reversed(found), strict=False):
                if a != ONE:
                    sheet.unify(a, b, node)
    sheet.soften(found, range(axis, len(found)), node)
    if any(t.name and (t.outputs or match.fetched(t)) for t in node.outputs[1:]):
        for looked in found[axis:]:
            sheet.freeze(looked, node, "its mean or variance is read")
    sheet.put(node.outputs[0], found)
    for out in node.outputs[1:]:
        sheet.put(out, [*found[:axis], *[ONE] * (len(found) - axis)])


def instance_norm(sheet: Sheet, node: gs.Node) -> None:
    """InstanceNormalization: channels pass, what is averaged over is frozen."""
    found = sheet.axes(node.inputs[0])
    for tensor in node.inputs[1:3]:
        sheet.unify(found[1], sheet.axes(tensor)[0], node)
    sheet.soften(found, range(2, len(found)), node)
    sheet.put(node.outputs[0], found)


def group_norm(sheet: Sheet, node: gs.Node) -> None:
    """GroupNormalization: whole groups may go."""
    found = sheet.axes(node.inputs[0])
    groups, channels = node.attrs.get("num_groups"), axes.size(found[1])
    if not isinstance(groups, int) or channels is None or groups < 1 or channels % groups:
        raise Standback("its groups are not known")
    group, each = axes.new(groups), axes.new(channels // groups)
    sheet.unify(found[1], Prod((group, each)), node)
    sheet.freeze(each, node, "mean or variance over the axis")
    for tensor in node.inputs[1:3]:
        shape = sheet.axes(tensor)[0]
        sheet.unify(shape, group if axes.size(shape) == groups else found[1], node)
    for looked in found[2:]:
        sheet.freeze(looked, node, "mean or variance over the axis")
    sheet.number(node, "num_groups", None, group)
    sheet.put(node.outputs[0], found)


def local_response(sheet: Sheet, node: gs.Node) -> None:
    """LRN: neighbouring channels see each other."""
    found = sheet.axes(node.inputs[0])
    sheet.freeze(found[1], node, "neighbouring channels see each other")
    sheet.put(node.outputs[0], found)


def mean_variance(sheet: Sheet, node: gs.Node) -> None:
    """MeanVarianceNormalization over `axes`."""
    found = sheet.axes(node.inputs[0])
    over = node.attrs.get("axes", [0, 2, 3])
    if not isinstance(over, list) or not all(-len(found) <= a < len(found) for a in over):
        raise Standback("its axes are not known")
    for axis in over:
        sheet.freeze(found[axis], node, "mean or variance over the axis")
    sheet.put(node.outputs[0], found)


def reduce(sheet: Sheet, node: gs.Node) -> None:
    """Reductions: sums are contractions, others freeze what they reduce."""
    found = sheet.axes(node.inputs[0])
    over = match.integers(node, 1, "axes")
    if over is None and (match.given(node, 1) or "axes" in node.attrs):
        raise Standback("its axes are computed")
    if not over:
        over = [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(len(found)))
    if not all(-len(found) <= a < len(found) for a in over):
        raise Standback("its axes are not known")
    gone = {a % len(found) for a in over}
    if node.op == "ReduceMean":
        sheet.soften(found, sorted(gone), node)
    elif node.op not in SUMS:
        for axis in gone:
            sheet.freeze(found[axis], node, "reduced")
    keep = node.attrs.get("keepdims", 1)
    made = [ONE if i in gone else a for i, a in enumerate(found) if keep or i not in gone]
    sheet.put(node.outputs[0], made)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), along),
    **dict.fromkeys(("CumSum", "TopK", "ArgMax", "ArgMin"), along),
    **dict.fromkeys((*SUMS, *OTHERS), reduce),
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "SimplifiedLayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LRN": local_response,
    "MeanVarianceNormalization": mean_variance,
}

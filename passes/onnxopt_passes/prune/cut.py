"""Removing indices: weights are sliced, and every number that counts them is written anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt_passes.prune import axes, branch, positions
from onnxopt_passes.prune.soft import restate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.analysis import Analysis
    from onnxopt_passes.prune.axes import Var
    from onnxopt_passes.prune.groups import Member
    from onnxopt_passes.prune.sheet import Indices, Number, Sheet

    Keep = Mapping[str, np.ndarray]
    """By the name of a group, a boolean an index: whether it stays."""


def cut(analysis: Analysis, keep: Keep) -> None:
    """Remove indices from the analysed graph, in place. The analysis is spent afterwards.

    Args:
        analysis: What is known about the axes.
        keep: What stays of each group; groups that are missing stay whole. Where nothing stays,
            the branch that the group is inside of goes.

    Raises:
        SpecError: Nothing is to stay of a group that is in no branch, or of both terms of a sum.
    """
    ends = [branch.end_of(g) for g in analysis.groups if g.name in keep and not keep[g.name].any()]
    left = {name: stays for name, stays in keep.items() if stays.any()}
    chosen = {analysis.variables[name].root(): stays for name, stays in left.items()}
    numbers = [
        (number, value)
        for number in analysis.sheet.numbers.values()
        if (value := _new_number(number, chosen)) is not None
    ]
    _spell_out(analysis.sheet, (number for number, _ in numbers))
    indices = [(item, _new_indices(item, chosen)) for item in analysis.sheet.indices]
    for tensor, found in analysis.sheet.tensors():
        if any(var in chosen for axis in found for var in axes.leaves(axis)):
            _slice(tensor, found, chosen)
    copies: dict[tuple[int, int], gs.Node] = {}
    for number, value in numbers:
        _write_number(analysis.model.graph, number, value, copies)
    for item, values in indices:
        if values is not None:
            _replace(item.node, 1, values)
    for layer in {id(layer.node): layer for layer in ends}.values():
        branch.drop(layer)


def _slice(
    tensor: gs.Tensor, found: tuple[axes.Axis, ...], chosen: Mapping[Var, np.ndarray]
) -> None:
    if isinstance(tensor, ir.Constant):
        values = tensor.values
        for i, axis in enumerate(found):
            stays = positions.kept(axis, chosen)
            if len(stays) < values.shape[i]:
                values = np.take(values, stays, axis=i)
        tensor.values = np.ascontiguousarray(values)
    elif isinstance(tensor, ir.Variable) and tensor.shape is not None:
        widths = [positions.width(axis, chosen) for axis in found]
        pairs = zip(tensor.shape, widths, strict=True)
        tensor.shape = tuple(w if isinstance(d, int) else d for d, w in pairs)


def _new_number(number: Number, chosen: Mapping[Var, np.ndarray]) -> int | None:
    """Return what a number has to be; None if it may stay."""
    width = positions.width(number.axis, chosen)
    if number.copied is not None:
        return None if width == positions.width(number.copied, chosen) else width
    return None if width == axes.size(number.axis) else width


def _spell_out(sheet: Sheet, numbers: Iterable[Number]) -> None:
    """Write down the sizes of Splits into equal parts, before some of the parts shrink."""
    for node in {id(n.node): n.node for n in numbers if match.is_op(n.node, "Split")}.values():
        if "split" in node.attrs or match.given(node, 1):
            continue
        node.attrs.pop("num_outputs", None)
        own = [n for n in sheet.numbers.values() if n.node is node]
        sizes = [axes.size(number.axis) or 0 for number in own]
        if own[0].slot == 1:
            name = f"{node.outputs[0].name}_sizes"
            node.inputs = [node.inputs[0], ir.Constant(name, np.array(sizes, np.int64))]
        else:
            node.attrs["split"] = sizes


def _new_indices(item: Indices, chosen: Mapping[Var, np.ndarray]) -> np.ndarray | None:
    source, result = (positions.kept(a, chosen) for a in (item.source, item.result))
    length = axes.size(item.source) or 0
    values = match.constant(item.node.inputs[1])
    if values is None or (len(source) == length and len(result) == len(values)):
        return None
    index = np.where(values < 0, values + length, values)[result]
    return np.asarray(np.searchsorted(source, index), values.dtype)


def _write_number(
    graph: gs.Graph, number: Number, value: int, copies: dict[tuple[int, int], gs.Node]
) -> None:
    node, slot = _holder(graph, number, copies), number.slot
    if isinstance(slot, str):
        if number.place is None:
            node.attrs[slot] = value
        else:
            found = list(node.attrs[slot])
            found[number.place] = value
            node.attrs[slot] = found
        return
    held = match.constant(node.inputs[slot])
    if held is not None and number.place is not None:
        values = np.array(held)
        values.reshape(-1)[number.place] = value
        _replace(node, slot, values)


def _holder(graph: gs.Graph, number: Number, copies: dict[tuple[int, int], gs.Node]) -> gs.Node:
    """Return the node to write a number at: for one of several readers, a copy of its own."""
    node, reader = number.node, number.reader
    key = (id(node), id(reader))
    if key not in copies:
        old, label = node.outputs[0], ir.label(reader) if reader is not None else ""
        if reader is None or len(old.outputs) == 1:
            return node
        out = ir.Variable(f"{old.name}_{label}", np.int64)
        copy = ir.Node(node.op, f"{node.name}_{label}", dict(node.attrs), list(node.inputs), [out])
        copies[key] = match.insert(graph, copy)
        reader.inputs = [out if tensor is old else tensor for tensor in reader.inputs]
    return copies[key]


def _replace(node: gs.Node, slot: int, values: np.ndarray) -> None:
    """Give a node other numbers, and only this node."""
    tensor = node.inputs[slot]
    if len(tensor.outputs) == 1 and not match.fetched(tensor):
        tensor.values = values  # type: ignore[attr-defined]
        return
    node.inputs[slot] = ir.Constant(f"{tensor.name}_{ir.label(node)}", values)


def mask(analysis: Analysis, keep: Keep) -> None:
    """Set to zero, in the analysed graph, what `cut` would remove from its weights.

    Means over what is cut take what stays alone (`soft`). Divisors stay as they are; in integer
    weights, zero is what dequantizes to zero.
    """
    for group in analysis.groups:
        if group.name not in keep:
            continue
        gone = np.flatnonzero(~keep[group.name])
        for member in group.members:
            if member.role.value != "divisor":
                _zero(member, member.columns[gone].reshape(-1))
    chosen = {analysis.variables[n].root(): stays for n, stays in keep.items() if stays.any()}
    restate(analysis.model.graph, analysis.sheet, chosen)


def _zero(member: Member, columns: np.ndarray) -> None:
    values = np.array(member.constant.values)
    index = (slice(None),) * member.axis + (columns,)
    values[index] = 0
    for node in member.constant.outputs:
        if match.is_op(node, "DequantizeLinear") and match.given(node, 2):
            point = match.constant(node.inputs[2])
            if point is not None and node.inputs[0] is member.constant:
                values[index] = _spread(point, node, values.shape)[index]
    member.constant.values = values


def _spread(point: np.ndarray, node: gs.Node, shape: tuple[int, ...]) -> np.ndarray:
    """Return zero points as large as what they belong to."""
    if point.size > 1:
        axis = node.attrs.get("axis", 1) % len(shape)
        point = point.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(point, shape)

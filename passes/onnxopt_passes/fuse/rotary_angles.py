"""Factors of a rotary embedding that are the same for both elements that are turned together.

In halves, element i is turned with element i + size / 2; in pairs, 2 i with 2 i + 1. A factor c of
[batch, heads, length, size] is then what one of half the size is when each element comes twice:

halves      Concat(h, h)
pairs       Reshape(Concat(Unsqueeze(h), Unsqueeze(h))), or with an Expand or a Tile to 2

or a constant table in which they are equal. What stands between that and c must leave the last axis
alone: functions of each element, gathers and slices of rows, new axes. It is then done on half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

DEPTH = 8
"""Nodes that are followed from a factor up to where it is doubled."""

Dims: TypeAlias = "tuple[int | str | None, ...]"


@dataclass(frozen=True)
class Half:
    """A factor, each element once.

    Attributes:
        factor: What it is the half of.
        base: A tensor, or the values of a constant.
        steps: Nodes that make the factor of the doubled base, the first first.
    """

    factor: gs.Tensor
    base: gs.Tensor | np.ndarray
    steps: tuple[gs.Node, ...] = ()


def find(graph: gs.Graph, factor: gs.Tensor, pairs: bool) -> Half | None:
    """Return a factor with each element once; None where it is not known to have it twice.

    Args:
        graph: The graph.
        factor: Float32, its rank and its last axis are known.
        pairs: Whether elements that are turned together are neighbours.
    """
    steps: list[gs.Node] = []
    tensor = factor
    for _ in range(DEPTH):
        values = match.constant(tensor)
        if values is not None:
            once = _once(values, pairs) if _exclusive(tensor) else None
            return None if once is None else Half(factor, once, tuple(reversed(steps)))
        node = match.producer(tensor)
        if node is None or not match.here(graph, node):
            return None
        base = _paired(node) if pairs else _joined(node)
        if base is not None:
            return Half(factor, base, tuple(reversed(steps)))
        if not _keeps_last(node):
            return None
        steps.append(node)
        tensor = _source(node)
    return None


def fits(half: Half, dims: Dims) -> bool:
    """Whether a factor is one for each row of [batch, heads, length, size], for all heads alike."""
    found = shapes.dims(half.factor)
    if found is None or not 2 <= len(found) <= 4 or not isinstance(dims[3], int):
        return False
    whole = (*(1,) * (4 - len(found)), *found)
    size = dims[3] // 2 if half.base is half.factor else dims[3]
    rows = whole[0] in (1, dims[0]) and whole[1] == 1 and whole[2] is not None
    return rows and whole[2] == dims[2] and whole[3] == size


def write(graph: gs.Graph, half: Half) -> gs.Tensor:
    """Return half of a factor as [batch, length, size / 2]; one that is there already."""
    name = f"{half.factor.name}.half"
    there = (
        t
        for n in graph.nodes
        if match.is_op(n, "RotaryEmbedding")
        for t in n.inputs[1:3]
        for t in (t, *(p.inputs[0] for p in t.inputs if match.is_op(p, "Expand")))
        if t.name == name
    )
    found = next(there, None)
    if found is not None:
        return found
    rank = len(shapes.dims(half.factor) or ())
    if isinstance(half.base, np.ndarray) and not half.steps:
        return ir.Constant(name, half.base.reshape(-1, *half.base.shape[-2:]).copy())
    tensor: gs.Tensor
    if isinstance(half.base, np.ndarray):
        tensor = ir.Constant(f"{half.factor.name}.table", half.base.copy())
    else:
        tensor = half.base
    steps = list(half.steps)
    raised = _new_axes(steps[-1]) if steps else None
    if rank == 4 and raised in ([1], [0, 1]):
        steps.pop()
        rank -= len(raised)
    for number, step in enumerate(steps):
        tensor = _again(graph, step, tensor, f"{half.factor.name}.once.{number}")
    return _three_axes(graph, tensor, rank, name)


def _three_axes(graph: gs.Graph, tensor: gs.Tensor, rank: int, name: str) -> gs.Tensor:
    """Return a tensor with axes of batch, length and half a size, under a name."""
    found = shapes.dims(tensor) or ()
    op, axes, dims = "Identity", None, found
    if rank == 4:
        op, axes, dims = "Squeeze", [1], (found[0], *found[2:])
    elif rank == 2:
        op, axes, dims = "Unsqueeze", [0], (1, *found)
    inputs = [tensor]
    if axes is not None:
        inputs.append(ir.Constant(f"{name}.axes", np.array(axes, np.int64)))
    elif match.producer(tensor) is not None and not tensor.outputs:
        tensor.name = name
        return tensor
    out = ir.Variable(name)
    shapes.note(out, shapes.dtype(tensor), dims)
    match.insert(graph, ir.Node(op, name, {}, inputs, [out]))
    return out


def _new_axes(node: gs.Node) -> list[int] | None:
    """Return the axes that an Unsqueeze makes, in order; None for another node."""
    axes = match.integers(node, 1, "axes") if match.is_op(node, "Unsqueeze") else None
    dims = shapes.dims(node.outputs[0])
    return None if axes is None or dims is None else sorted(a % len(dims) for a in axes)


def _again(graph: gs.Graph, step: gs.Node, tensor: gs.Tensor, name: str) -> gs.Tensor:
    """Do to half of a tensor what a node does to all of it."""
    whole = step.outputs[0]
    out = ir.Variable(name)
    last = (shapes.dims(tensor) or (None,))[-1]
    dims = shapes.dims(whole)
    shapes.note(out, shapes.dtype(whole), None if dims is None else (*dims[:-1], last))
    source = _source(step)
    inputs = [tensor if t is source else t for t in step.inputs]
    match.insert(graph, ir.Node(step.op, out.name, dict(step.attrs), inputs, [out]))
    return out


def _source(node: gs.Node) -> gs.Tensor:
    """Return the input of a node that the last axis of its output comes from."""
    scaled = scalars.scaled(node) if match.is_op(node, "Mul", "Div") else None
    return node.inputs[0] if scaled is None else scaled[0]


def _keeps_last(node: gs.Node) -> bool:
    """Whether a node leaves the order of elements along the last axis as it is."""
    if match.is_op(node, "Cos", "Sin", "Cast", "Neg"):
        return True
    if match.is_op(node, "Mul", "Div"):
        return scalars.scaled(node) is not None
    before, after = shapes.dims(node.inputs[0]), shapes.dims(node.outputs[0])
    if before is None or after is None or len(before) < 2:
        return False
    if match.is_op(node, "Unsqueeze"):
        axes = _new_axes(node)
        return axes is not None and len(after) - 1 not in axes
    if match.is_op(node, "Squeeze", "Slice"):
        axes = match.integers(node, 1 if node.op == "Squeeze" else 3, "axes")
        return axes is not None and all(a % len(before) != len(before) - 1 for a in axes)
    if match.is_op(node, "Gather"):
        return bool(match.attribute(node, "axis", 0) == 0)
    if match.is_op(node, "GatherND"):
        rows = shapes.dims(node.inputs[1])
        single = rows is not None and rows[-1] == 1
        return single and match.attribute(node, "batch_dims", 0) in (0, None)
    return False


def _joined(node: gs.Node) -> gs.Tensor | None:
    """Return h of Concat(h, h) along the last axis."""
    if not match.is_op(node, "Concat") or len(node.inputs) != 2:
        return None
    dims = shapes.dims(node.outputs[0])
    last = dims is not None and match.attribute(node, "axis", 0) in (-1, len(dims) - 1)
    return node.inputs[0] if last and node.inputs[0] is node.inputs[1] else None


def _paired(node: gs.Node) -> gs.Tensor | None:
    """Return h where each of its elements comes twice, one behind the other."""
    joined = match.producer(node.inputs[0]) if match.is_op(node, "Reshape") else None
    if joined is None or not match.is_op(joined, "Concat", "Expand", "Tile"):
        return None
    if joined.op == "Concat" and any(t is not joined.inputs[0] for t in joined.inputs):
        return None
    raised = match.producer(joined.inputs[0])
    if raised is None or not match.is_op(raised, "Unsqueeze"):
        return None
    h = raised.inputs[0]
    tensors = (h, raised.outputs[0], joined.outputs[0], node.outputs[0])
    found = [shapes.dims(t) for t in tensors]
    if any(d is None or None in d for d in found):
        return None
    small, thin, wide, whole = (tuple(d or ()) for d in found)
    size = small[-1] if small else None
    if not isinstance(size, int) or thin != (*small, 1) or wide != (*small, 2):
        return None
    return h if whole == (*small[:-1], 2 * size) else None


def _exclusive(tensor: gs.Tensor) -> bool:
    """Whether a constant goes as soon as all that are like these readers read the half."""
    readers = tensor.outputs
    return scalars.spare(tensor) or all(
        match.is_op(n, "Gather", "GatherND", "Mul", "Slice") for n in readers
    )


def _once(values: np.ndarray, pairs: bool) -> np.ndarray | None:
    """Return every other of the values, or the first half of them, if the rest is the same."""
    if values.ndim < 2 or values.shape[-1] % 2 or not values.size:
        return None
    size = values.shape[-1] // 2
    first, second = (
        (values[..., ::2], values[..., 1::2]) if pairs else (values[..., :size], values[..., size:])
    )
    return first if np.array_equal(first, second) else None


def batch(half: Half) -> int | str | None:
    """Return the length of the first axis of [batch, heads, length, size]; 1 where it is absent."""
    found: Sequence[int | str | None] = shapes.dims(half.factor) or ()
    return found[0] if len(found) == 4 else 1

"""What masks the scores of an attention, in the form that Attention takes.

An Attention of onnxruntime takes numbers that are added, [.., queries, keys], where the leading axes
may be 1 or absent. Queries may not be 1 if there are more: Expand repeats the row then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_graphsurgeon as gs

LOWEST = -1e30
"""A number below all scores: added to one, it leaves of it nothing that Softmax sees."""

SHAPE_PARTS = 15
"""From this opset on, Shape has `start` and `end`."""


@dataclass(frozen=True)
class Mask:
    """What is added to scores.

    Attributes:
        tensor: Numbers, or a condition.
        hidden: For a condition, the number that scores are replaced by; None for numbers.
        inverted: Whether they are replaced where it is true.
    """

    tensor: gs.Tensor
    hidden: float | None = None
    inverted: bool = False


def candidates(graph: gs.Graph, tensor: gs.Tensor) -> Iterator[tuple[gs.Tensor, Mask]]:
    """Yield what may be the scores, and the mask, of masked scores."""
    node = match.sole(graph, tensor, "Add", "Where")
    if node is None:
        return
    if node.op == "Add":
        left, right = node.inputs
        yield left, Mask(right)
        yield right, Mask(left)
        return
    condition, yes, no = node.inputs
    for scores, other, inverted in ((yes, no, False), (no, yes, True)):
        hidden = match.scalar(other)
        dims = shapes.dims(other)
        if hidden is not None and hidden <= LOWEST and dims is not None and len(dims) < 5:
            yield scores, Mask(condition, float(hidden), inverted)


def fit(mask: Mask | None, q: gs.Tensor, v: gs.Tensor) -> bool | None:
    """Return whether a mask has one row for all queries; None if it is not known to fit.

    Args:
        mask: None fits.
        q: [batch, heads, queries, size].
        v: [batch, heads, keys, size].
    """
    if mask is None:
        return False
    dims = shapes.dims(mask.tensor)
    wide, values = shapes.dims(q), shapes.dims(v)
    if dims is None or wide is None or values is None or not 1 <= len(dims) <= 4:
        return None
    if mask.hidden is None and scalars.kind(mask.tensor) != np.float32:
        return None
    full = (*(1,) * (4 - len(dims)), *dims)
    if full[0] not in (1, wide[0]) or full[1] not in (1, wide[1]):
        return None
    if full[3] is None or full[3] != values[2]:
        return None
    if full[2] is not None and full[2] == wide[2]:
        return False
    return True if full[2] == 1 else None


def write(graph: gs.Graph, mask: Mask, q: gs.Tensor, name: str, single: bool) -> gs.Tensor:
    """Return the numbers that are added to the scores, a row for each query.

    Args:
        graph: The graph.
        mask: A mask that fits.
        q: [batch, heads, queries, size].
        name: First part of the names of new tensors.
        single: Whether it has one row for all queries.
    """
    tensor = mask.tensor if mask.hidden is None else _numbers(graph, mask, f"{name}.mask")
    if not single:
        return tensor
    values = match.constant(tensor)
    queries = (shapes.dims(q) or (None,) * 4)[2]
    rows = ir.Variable(f"{name}.mask.rows")
    dims = shapes.dims(tensor) or ()
    whole = (*(1,) * (4 - len(dims)), *dims)
    rows.inferred = (np.dtype(np.float32), (*whole[:2], queries, whole[3]))  # type: ignore[attr-defined]
    if (
        values is not None
        and isinstance(queries, int)
        and queries * values.nbytes <= scalars.SHARED
    ):
        spread = np.broadcast_to(values.reshape(whole), (*whole[:2], queries, whole[3]))
        return ir.Constant(rows.name, spread.copy())
    shape = _rows(graph, q, queries, rows.name)
    match.insert(graph, ir.Node("Expand", rows.name, {}, [tensor, shape], [rows]))
    return rows


def _numbers(graph: gs.Graph, mask: Mask, name: str) -> gs.Tensor:
    """Return 0 where a condition leaves scores as they are, else the number that hides them."""
    hidden, zero = np.array(mask.hidden, np.float32), np.array(0, np.float32)
    choices = (hidden, zero) if mask.inverted else (zero, hidden)
    values = match.constant(mask.tensor)
    if values is not None and scalars.spare(mask.tensor) and 4 * values.size <= scalars.SHARED:
        return ir.Constant(name, np.where(values, *choices))
    made = ir.Variable(name)
    made.inferred = (np.dtype(np.float32), shapes.dims(mask.tensor))  # type: ignore[attr-defined]
    constants = [
        ir.Constant(f"{name}.{what}", value)
        for what, value in zip(("shown", "hidden"), choices, strict=True)
    ]
    match.insert(graph, ir.Node("Where", name, {}, [mask.tensor, *constants], [made]))
    return made


def _rows(graph: gs.Graph, q: gs.Tensor, queries: int | str | None, name: str) -> gs.Tensor:
    """Return the shape [1, 1, queries, 1]."""
    if isinstance(queries, int):
        return ir.Constant(f"{name}.shape", np.array([1, 1, queries, 1], np.int64))
    size, shape = ir.Variable(f"{name}.size"), ir.Variable(f"{name}.shape")
    size.inferred = (np.dtype(np.int64), (1,))  # type: ignore[attr-defined]
    shape.inferred = (np.dtype(np.int64), (4,))  # type: ignore[attr-defined]
    match.insert(graph, ir.Node("Shape", size.name, {"start": 2, "end": 3}, [q], [size]))
    ones = [
        ir.Constant(f"{name}.{what}", np.ones(n, np.int64))
        for what, n in (("before", 2), ("after", 1))
    ]
    parts = [ones[0], size, ones[1]]
    match.insert(graph, ir.Node("Concat", shape.name, {"axis": 0}, parts, [shape]))
    return shape

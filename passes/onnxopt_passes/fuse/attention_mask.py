"""What masks the scores of an attention, in the form that Attention takes.

An Attention of onnxruntime takes numbers that are added, [.., queries, keys]. The leading axes may
be 1 or absent, the last two may not: where they are 1, or not known, Expand makes them what they
have to be. Only a batch that is not known is taken to be that of Q: Attention itself checks it.

The lowest float32 it takes for -Inf, and gives 0 for a row that is hidden so as a whole, where
Softmax gives the mean. `FLOOR`, which hides as well, it does not: lower numbers become that.
"""

from __future__ import annotations

import math
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


FLOOR = -1e38
"""A number as low that onnxruntime does not take for -Inf."""


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


def fit(mask: Mask, q: gs.Tensor, v: gs.Tensor) -> tuple[bool, bool] | None:
    """Return which of queries and keys a mask has to be expanded to; None if it does not fit.

    Args:
        mask: The mask.
        q: [batch, heads, queries, size].
        v: [batch, heads, keys, size].
    """
    dims = shapes.dims(mask.tensor)
    wide, values = shapes.dims(q), shapes.dims(v)
    if dims is None or wide is None or values is None or not 1 <= len(dims) <= 4:
        return None
    if mask.hidden is None and scalars.kind(mask.tensor) != np.float32:
        return None
    full = (*(1,) * (4 - len(dims)), *dims)
    if full[1] not in (1, wide[1]) or (isinstance(full[0], int) and full[0] not in (1, wide[0])):
        return None
    pairs = ((full[2], wide[2]), (full[3], values[2]))
    if any(isinstance(a, int) and a not in (1, b) for a, b in pairs):
        return None
    queries, keys = (a is None or a != b for a, b in pairs)
    return queries, keys


def finite(mask: Mask | None) -> bool:
    """Whether a mask is known to hold no -Inf, which could hide a row as a whole."""
    if mask is None:
        return True
    if mask.hidden is not None:
        return bool(np.isfinite(mask.hidden))
    node = match.producer(mask.tensor)
    if node is not None and match.is_op(node, "Where"):
        values = [match.constant(t) for t in node.inputs[1:]]
    else:
        values = [match.constant(mask.tensor)]
    return all(v is not None and bool(np.isfinite(v).all()) for v in values)


def write(
    graph: gs.Graph,
    mask: Mask,
    sources: tuple[gs.Tensor, gs.Tensor],
    name: str,
    short: tuple[bool, bool],
    raised: bool,
) -> gs.Tensor:
    """Return the numbers that are added to the scores.

    Args:
        graph: The graph.
        mask: A mask that fits.
        sources: Q and V.
        name: First part of the names of new tensors.
        short: What `fit` says of it.
        raised: Whether numbers below `FLOOR` become that.
    """
    tensor = mask.tensor if mask.hidden is None else _numbers(graph, mask, f"{name}.mask")
    if raised:
        tensor = _raised(graph, tensor)
    if not any(short):
        return tensor
    sizes = [
        (shapes.dims(t) or (None,) * 4)[2] if wanted else 1
        for t, wanted in zip(sources, short, strict=True)
    ]
    found = shapes.dims(tensor) or ()
    whole = [*(1,) * (4 - len(found)), *found]
    dims = [*whole[:2], *(s if w else d for s, w, d in zip(sizes, short, whole[2:], strict=True))]
    wide = ir.Variable(f"{name}.mask.wide")
    shapes.note(wide, np.dtype(np.float32), tuple(dims))
    values = match.constant(tensor)
    fixed = [d for d in dims if isinstance(d, int)]
    if values is not None and len(fixed) == 4 and 4 * math.prod(fixed) <= scalars.SHARED:
        return ir.Constant(wide.name, np.broadcast_to(values, fixed).copy())
    shape = _shape(graph, sources, sizes, wide.name)
    match.insert(graph, ir.Node("Expand", wide.name, {}, [tensor, shape], [wide]))
    return wide


def _raised(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    """Return a mask without finite numbers below `FLOOR`, the same where that is known.

    Of one that holds -Inf as a constant nothing is changed. The nodes are made once a mask.
    """
    node = match.producer(tensor)
    chosen = node if node is not None and match.is_op(node, "Where") else None
    values = match.constants([tensor] if chosen is None else chosen.inputs[1:])
    if values is not None and (
        any(np.isneginf(v).any() for v in values) or all((v >= FLOOR).all() for v in values)
    ):
        return tensor
    name = f"{tensor.name}.raised"
    small = values is not None and sum(v.nbytes for v in values) <= scalars.SHARED
    source = tensor if chosen is None or not small else chosen.inputs[0]
    made = (t for n in source.outputs if match.here(graph, n) for t in n.outputs if t.name == name)
    there = next(made, None)
    if there is not None:
        return there
    if values is None or not small:
        floor = scalars.constant(f"{name}.floor", FLOOR, np.dtype(np.float32))
        return scalars.step(graph, "Max", name, tensor, tensor, floor)
    least = np.float32(FLOOR)
    new = [
        ir.Constant(f"{name}.{i}", np.asarray(np.maximum(v, least))) for i, v in enumerate(values)
    ]
    return new[0] if chosen is None else scalars.step(graph, "Where", name, tensor, source, *new)


def _numbers(graph: gs.Graph, mask: Mask, name: str) -> gs.Tensor:
    """Return 0 where a condition leaves scores as they are, else the number that hides them."""
    lowest = FLOOR if mask.hidden and -np.inf < mask.hidden < FLOOR else mask.hidden
    hidden, zero = np.array(lowest, np.float32), np.array(0, np.float32)
    choices = (hidden, zero) if mask.inverted else (zero, hidden)
    values = match.constant(mask.tensor)
    if values is not None and scalars.spare(mask.tensor) and 4 * values.size <= scalars.SHARED:
        return ir.Constant(name, np.where(values, *choices))
    made = ir.Variable(name)
    shapes.note(made, np.dtype(np.float32), shapes.dims(mask.tensor))
    constants = [
        ir.Constant(f"{name}.{what}", value)
        for what, value in zip(("shown", "hidden"), choices, strict=True)
    ]
    match.insert(graph, ir.Node("Where", name, {}, [mask.tensor, *constants], [made]))
    return made


def _shape(
    graph: gs.Graph,
    sources: tuple[gs.Tensor, gs.Tensor],
    sizes: list[int | str | None],
    name: str,
) -> gs.Tensor:
    """Return the shape [1, 1, queries, keys], of which sizes that are not known are computed."""
    if all(isinstance(s, int) for s in sizes):
        return ir.Constant(f"{name}.shape", np.array([1, 1, *sizes], np.int64))
    parts: list[gs.Tensor] = [ir.Constant(f"{name}.ones", np.ones(2, np.int64))]
    for tensor, size, what in zip(sources, sizes, ("queries", "keys"), strict=True):
        if isinstance(size, int):
            parts.append(ir.Constant(f"{name}.{what}", np.array([size], np.int64)))
            continue
        part = ir.Variable(f"{name}.{what}")
        shapes.note(part, np.dtype(np.int64), (1,))
        source, axis = _origin(tensor, 2)
        attributes = {"start": axis, "end": axis + 1}
        match.insert(graph, ir.Node("Shape", part.name, attributes, [source], [part]))
        parts.append(part)
    shape = ir.Variable(f"{name}.shape")
    shapes.note(shape, np.dtype(np.int64), (4,))
    match.insert(graph, ir.Node("Concat", shape.name, {"axis": 0}, parts, [shape]))
    return shape


def _origin(tensor: gs.Tensor, axis: int) -> tuple[gs.Tensor, int]:
    """Return where an axis of a tensor comes from before Transposes, so that they may go."""
    node = match.producer(tensor)
    while node is not None and match.is_op(node, "Transpose"):
        perm = match.attribute(node, "perm", None)
        if not isinstance(perm, list):
            break
        tensor, axis = node.inputs[0], perm[axis]
        node = match.producer(tensor)
    return tensor, axis

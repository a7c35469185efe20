"""RotaryEmbedding from its decomposition.

x * c + Concat(-x2, x1) * s   ->   RotaryEmbedding(x, Cos(f), Sin(f))

x is [batch, heads, length, size], and x1, x2 are its halves along the last axis; c is Cos(Concat(f,
f)), s is Sin of the same, with an axis of 1 for the heads, and both may be scaled by one number. f
is [batch, length, size / 2]; where its batch is 1, Expand makes it that of x, which an input of the
graph has to have, so that all layers can share it.

From opset 23 on, which has it (https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html), and for
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ROTARY = 23
"""The opset that has it."""


def fuse_rotary(graph: gs.Graph, add: gs.Node) -> bool:
    """Write a rotation of the halves of a tensor as one node."""
    if graph.opset < ROTARY:
        return False
    parts = _parts(graph, add)
    if parts is None:
        return False
    x, cos, sin = parts
    dims, found = shapes.dims(x), _angles(graph, cos, "Cos")
    other = _angles(graph, sin, "Sin")
    if found is None or other is None or found[0] is not other[0] or dims is None:
        return match.miss("its factors are not cosine and sine of the same repeated angles")
    if scalars.kind(x, add.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    angles = shapes.dims(found[0])
    if len(dims) != 4 or angles is None or len(angles) != 3 or not isinstance(dims[3], int):
        return match.miss("its sizes are not known")
    if dims[2] is None or (angles[1], angles[2]) != (dims[2], dims[3] / 2):
        return match.miss("length and size of its angles are not known to be those of the tensor")
    batch = None if angles[0] == dims[0] else _batch(graph, dims[0])
    if angles[0] != dims[0] and (angles[0] != 1 or batch is None):
        return match.miss("the batch of its angles is not known to be that of an input")

    inputs = [x]
    for op, (half, scale) in (("Cos", found), ("Sin", other)):
        made = _half(graph, half, op, scale)
        inputs.append(made if batch is None else _expanded(graph, made, batch))
    new = ir.Node("RotaryEmbedding", add.name, {}, inputs)
    return scalars.finish(graph, add, new)


def _parts(graph: gs.Graph, add: gs.Node) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor] | None:
    """Return x, c and s of x * c + rotated(x) * s."""
    products = [match.sole(graph, t, "Mul") for t in add.inputs]
    if any(p is None for p in products):
        return None
    pairs = [tuple(p.inputs) for p in products if p is not None]
    for straight, turned in (pairs, pairs[::-1]):
        for rotated, sin in (turned, turned[::-1]):
            x = _rotated(graph, rotated)
            if x is not None and any(t is x for t in straight):
                return x, straight[1] if straight[0] is x else straight[0], sin
    return None


def _rotated(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of Concat(-x2, x1), its halves along the last axis."""
    joined = match.sole(graph, tensor, "Concat")
    dims = shapes.dims(tensor)
    if joined is None or len(joined.inputs) != 2 or dims is None:
        return None
    if match.attribute(joined, "axis", None) not in (-1, len(dims) - 1):
        return None
    negated = match.sole(graph, joined.inputs[0], "Neg")
    split = None if negated is None else match.producer(negated.inputs[0])
    if negated is None or split is None or not match.is_op(split, "Split"):
        return None
    if not match.here(graph, split) or len(split.outputs) != 2:
        return None
    if match.attribute(split, "axis", 0) not in (-1, len(dims) - 1):
        return None
    first, second = split.outputs
    sizes = [(shapes.dims(t) or (None,))[-1] for t in (first, second)]
    halves = sizes[0] is not None and sizes[0] == sizes[1]
    in_place = negated.inputs[0] is second and joined.inputs[1] is first
    return split.inputs[0] if halves and in_place else None


def _angles(graph: gs.Graph, tensor: gs.Tensor, op: str) -> tuple[gs.Tensor, float] | None:
    """Return f and k of Unsqueeze(k * op(Concat(f, f)), heads)."""
    raised = match.producer(tensor)
    if raised is None or not match.is_op(raised, "Unsqueeze"):
        return None
    if match.integers(raised, 1, "axes") not in ([1], [-3]):
        return None
    tensor, scale = raised.inputs[0], 1.0
    scaled = scalars.scaled(match.producer(tensor))
    if scaled is not None:
        tensor, scale = scaled
    wave = match.producer(tensor)
    joined = match.producer(wave.inputs[0]) if match.is_op(wave, op) else None  # type: ignore[union-attr]
    if joined is None or not match.is_op(joined, "Concat") or not match.here(graph, joined):
        return None
    if len(joined.inputs) != 2 or joined.inputs[0] is not joined.inputs[1]:
        return None
    return (joined.inputs[0], scale) if match.attribute(joined, "axis", 0) in (-1, 2) else None


def _batch(graph: gs.Graph, size: int | str | None) -> gs.Tensor | int | None:
    """Return an input of the graph whose first axis is that symbol, or the number."""
    if isinstance(size, int):
        return size
    named = (t for t in graph.inputs if size is not None and (shapes.dims(t) or (None,))[0] == size)
    return next(named, None)


def _half(graph: gs.Graph, angles: gs.Tensor, op: str, scale: float) -> gs.Tensor:
    """Return cosine or sine of angles, times a number; one that is there already."""
    name = f"{angles.name}.{op}"
    wave = _reader(graph, angles, name) or scalars.step(graph, op, name, angles, angles)
    if scale == 1:
        return wave
    name = f"{name}.scaled"
    factor = scalars.constant(f"{name}.factor", scale, np.dtype(np.float32))
    return _reader(graph, wave, name) or scalars.step(graph, "Mul", name, wave, wave, factor)


def _reader(graph: gs.Graph, tensor: gs.Tensor, name: str) -> gs.Tensor | None:
    """Return the output of that name of a node that reads a tensor."""
    found = (t for n in tensor.outputs if match.here(graph, n) for t in n.outputs if t.name == name)
    return next(found, None)


def _expanded(graph: gs.Graph, tensor: gs.Tensor, batch: gs.Tensor | int) -> gs.Tensor:
    """Return [1, length, size] as [batch, length, size]."""
    name = f"{tensor.name}.batch"
    there = _reader(graph, tensor, name)
    if there is not None:
        return there
    dims = shapes.dims(tensor) or (None,) * 3
    wide = ir.Variable(name)
    if isinstance(batch, int):
        shapes.note(wide, shapes.dtype(tensor), (batch, *dims[1:]))
        shape: gs.Tensor = ir.Constant(f"{name}.shape", np.array([batch, 1, 1], np.int64))
    else:
        first = (shapes.dims(batch) or (None,))[0]
        shapes.note(wide, shapes.dtype(tensor), (first, *dims[1:]))
        size, shape = ir.Variable(f"{name}.size"), ir.Variable(f"{name}.shape")
        shapes.note(size, np.dtype(np.int64), (1,))
        shapes.note(shape, np.dtype(np.int64), (3,))
        ones = ir.Constant(f"{name}.ones", np.ones(2, np.int64))
        sized = ir.Node("Shape", size.name, {"start": 0, "end": 1}, [batch], [size])
        match.insert(graph, sized)
        match.insert(graph, ir.Node("Concat", shape.name, {"axis": 0}, [size, ones], [shape]))
    match.insert(graph, ir.Node("Expand", name, {}, [tensor, shape], [wide]))
    return wide


RULES: tuple[Rule, ...] = (Rule("rotary", ("Add",), fuse_rotary),)
"""Before attention, to which it makes lengths known; after Slices became Splits."""

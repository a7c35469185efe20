"""RotaryEmbedding from its decomposition.

x * c + Concat(-x2, x1) * s              ->  RotaryEmbedding(x, c', s')       x1, x2: halves of x
x * c + Reshape(Stack(-x2, x1)) * s      ->  the same, interleaved           x1, x2: x[::2], x[1::2]
Concat(x1 * c' - x2 * s', x2 * c' + x1 * s')  ->  RotaryEmbedding(x, c', s')
Concat(RotaryEmbedding(x1), x2)          ->  RotaryEmbedding(x), of the first elements

x is [batch, heads, length, size]; c and s have each element twice (`rotary_angles`), c' and s'
once: [batch, length, size / 2]. Where their batch is 1, Expand makes it that of x, which an input
of the graph has to have, so that all layers can share it.

From opset 23 on, which has it (https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html), and for
float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import rotary_angles, scalars
from onnxopt_passes.fuse.rotary_angles import Half

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ROTARY = 23
"""The opset that has it."""

STEP = 2
"""From one element to the next that is the first of a pair."""


@dataclass(frozen=True)
class Turn:
    """x * cosine + rotated(x) * sine.

    Attributes:
        x: What is rotated.
        cosine: Factor of x, each element twice.
        sine: Factor of the rotated x, the same.
        pairs: Whether neighbours are turned together, not elements of both halves.
    """

    x: gs.Tensor
    cosine: gs.Tensor
    sine: gs.Tensor
    pairs: bool


def fuse_rotary(graph: gs.Graph, add: gs.Node) -> bool:
    """Write a rotation that was made of factors of the whole size as one node."""
    turn = _turn(graph, add) if graph.opset >= ROTARY else None
    if turn is None:
        return False
    found = [rotary_angles.find(graph, t, turn.pairs) for t in (turn.cosine, turn.sine)]
    halves = [h for h in found if h is not None]
    if len(halves) < len(found):
        return match.miss("its factors are not known to have each element twice")
    return _write(graph, add, turn.x, halves, {"interleaved": 1} if turn.pairs else {})


def fuse_split_rotary(graph: gs.Graph, joined: gs.Node) -> bool:
    """Write a rotation that was made half by half as one node."""
    if graph.opset < ROTARY or len(joined.inputs) != 2 or not _along_last(joined):
        return False
    minus = match.sole(graph, joined.inputs[0], "Sub")
    plus = match.sole(graph, joined.inputs[1], "Add")
    if minus is None or plus is None:
        return False
    products = [match.sole(graph, t, "Mul") for t in (*minus.inputs, *plus.inputs)]
    if any(p is None for p in products):
        return False
    straight, turned, *rest = (tuple(p.inputs) for p in products if p is not None)
    for by_cosine, by_sine in (rest, rest[::-1]):
        x1, cosine = _shared(straight, by_sine), _shared(straight, by_cosine)
        x2, sine = _shared(turned, by_cosine), _shared(turned, by_sine)
        if x1 is None or x2 is None or cosine is None or sine is None:
            continue
        x = _halved(x1, x2)
        if x is not None:
            return _write(graph, joined, x, [Half(cosine, cosine), Half(sine, sine)], {})
    return False


def fuse_partial_rotary(graph: gs.Graph, joined: gs.Node) -> bool:
    """Let a rotation of the first elements leave the others as they are by itself."""
    if len(joined.inputs) != 2 or not _along_last(joined):
        return False
    node = match.sole(graph, joined.inputs[0], "RotaryEmbedding")
    if node is None or match.given(node, 3):
        return False
    split = match.producer(joined.inputs[1])
    if split is None or not match.is_op(split, "Split") or not match.here(graph, split):
        return False
    if len(split.outputs) != 2 or not _along_last(split):
        return False
    size = (shapes.dims(split.outputs[0]) or (None,))[-1]
    if node.inputs[0] is not split.outputs[0] or joined.inputs[1] is not split.outputs[1]:
        return False
    if not isinstance(size, int) or match.attribute(node, "rotary_embedding_dim", 0) != 0:
        return False

    attributes = {**node.attrs, "rotary_embedding_dim": size}
    inputs = [split.inputs[0], *node.inputs[1:]]
    new = ir.Node("RotaryEmbedding", joined.name, attributes, inputs)
    return scalars.finish(graph, joined, new)


def _write(
    graph: gs.Graph, last: gs.Node, x: gs.Tensor, halves: list[Half], attributes: dict[str, int]
) -> bool:
    """Write a rotation of x as one node that makes what another made."""
    dims = shapes.dims(x)
    if scalars.kind(x, last.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    if dims is None or len(dims) != 4 or not isinstance(dims[3], int) or dims[3] % 2:
        return match.miss("its sizes are not known")
    if not all(rotary_angles.fits(h, dims) for h in halves):
        return match.miss("the rows of its factors are not known to be those of the tensor")
    batch = _batch(graph, dims[0])
    if batch is None and any(rotary_angles.batch(h) != dims[0] for h in halves):
        return match.miss("the batch of its factors is not known to be that of an input")
    if match.quantized(x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    inputs = [x]
    for half in halves:
        made = rotary_angles.write(graph, half)
        wide = rotary_angles.batch(half) == dims[0] or batch is None
        inputs.append(made if wide or batch is None else _expanded(graph, made, batch))
    new = ir.Node("RotaryEmbedding", last.name, dict(attributes), inputs)
    return scalars.finish(graph, last, new)


def _turn(graph: gs.Graph, add: gs.Node) -> Turn | None:
    """Return the parts of x * c + rotated(x) * s."""
    products = [match.sole(graph, t, "Mul") for t in add.inputs]
    if any(p is None for p in products):
        return None
    pairs = [tuple(p.inputs) for p in products if p is not None]
    for straight, turned in (pairs, pairs[::-1]):
        for rotated, sine in (turned, turned[::-1]):
            for x, by_pairs in ((_halves(graph, rotated), False), (_pairs(graph, rotated), True)):
                if x is not None and any(t is x for t in straight):
                    cosine = straight[1] if straight[0] is x else straight[0]
                    return Turn(x, cosine, sine, by_pairs)
    return None


def _halves(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of Concat(-x2, x1), its halves along the last axis."""
    joined = match.sole(graph, tensor, "Concat")
    if joined is None or len(joined.inputs) != 2 or not _along_last(joined):
        return None
    negated = match.sole(graph, joined.inputs[0], "Neg")
    return None if negated is None else _halved(joined.inputs[1], negated.inputs[0])


def _halved(first: gs.Tensor, second: gs.Tensor) -> gs.Tensor | None:
    """Return what two tensors are the halves of, along the last axis."""
    split = match.producer(first)
    if split is None or not match.is_op(split, "Split") or len(split.outputs) != 2:
        return None
    if split.outputs[0] is not first or split.outputs[1] is not second or not _along_last(split):
        return None
    sizes = [(shapes.dims(t) or (None,))[-1] for t in (first, second)]
    return split.inputs[0] if sizes[0] is not None and sizes[0] == sizes[1] else None


def _pairs(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of Reshape(Concat(Unsqueeze(-x[1::2]), Unsqueeze(x[::2])))."""
    flat = match.sole(graph, tensor, "Reshape")
    joined = None if flat is None else match.sole(graph, flat.inputs[0], "Concat")
    if joined is None or len(joined.inputs) != 2 or not _along_last(joined):
        return None
    raised = [match.sole(graph, t, "Unsqueeze") for t in joined.inputs]
    if any(r is None for r in raised):
        return None
    odd, even = (r.inputs[0] for r in raised if r is not None)
    negated = match.sole(graph, odd, "Neg")
    x = None if negated is None else _every_other(even, 0)
    if x is None or negated is None or _every_other(negated.inputs[0], 1) is not x:
        return None
    dims, small = shapes.dims(x), shapes.dims(even)
    if dims is None or small is None or None in dims or None in small:
        return None
    same = shapes.dims(tensor) == dims and shapes.dims(joined.outputs[0]) == (*small, 2)
    return x if same else None


def _every_other(tensor: gs.Tensor, first: int) -> gs.Tensor | None:
    """Return x of x[first::2] along the last axis."""
    node = match.producer(tensor)
    if node is None or not match.is_op(node, "Slice"):
        return None
    dims = shapes.dims(node.inputs[0])
    size = None if not dims else dims[-1]
    found = [match.integers(node, i, "") for i in range(1, 5)]
    if dims is None or not isinstance(size, int) or any(f is None or len(f) != 1 for f in found):
        return None
    start, end, axis, step = (f[0] for f in found if f is not None)
    whole = start == first and end >= size and step == STEP and axis % len(dims) == len(dims) - 1
    return node.inputs[0] if whole else None


def _along_last(node: gs.Node) -> bool:
    """Whether a Concat or Split works along the last axis."""
    dims = shapes.dims(node.outputs[0])
    return dims is not None and match.attribute(node, "axis", 0) in (-1, len(dims) - 1)


def _shared(one: tuple[gs.Tensor, ...], other: tuple[gs.Tensor, ...]) -> gs.Tensor | None:
    """Return the factor that two products have in common."""
    return next((t for t in one if any(t is o for o in other)), None)


def _batch(graph: gs.Graph, size: int | str | None) -> gs.Tensor | int | None:
    """Return an input of the graph whose first axis is that symbol, or the number."""
    if isinstance(size, int):
        return size
    named = (t for t in graph.inputs if size is not None and (shapes.dims(t) or (None,))[0] == size)
    return next(named, None)


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


RULES: tuple[Rule, ...] = (
    Rule("rotary", ("Add",), fuse_rotary),
    Rule("rotary_split", ("Concat",), fuse_split_rotary),
    Rule("rotary_part", ("Concat",), fuse_partial_rotary),
)
"""Before attention, to which it makes lengths known; after Slices became Splits."""

"""Loop of n iterations, n known  ->  its body n times.

What is carried goes from one copy to the next; what is collected is put together by a Concat. A
Loop costs a session of its own in each iteration, and hides its nodes from other rules.

The number of iterations is constant, and the condition always true. The body has no bodies, no
random ops and no ops of other domains, which may keep a state from one iteration to the next. The
copies together have no more nodes than a budget, and the file may not grow: `keep` of `tentative`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import tentative

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Exported, Model

RANDOM = (
    *("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"),
    *("RandomUniform", "RandomUniformLike"),
)
"""Ops that go on from where they were in the iteration before."""

AXES_AS_INPUT = 13
"""Unsqueeze takes its axes as an input from this opset on."""

ANY_IDENTITY = 16
"""From this opset on, Identity takes sequences and optionals too."""


def unroll_loops(model: Model, ctx: Context, most: int, room: int) -> int:
    """Unroll all Loops of known length; return how many.

    Args:
        model: Edited.
        ctx: Asked before each edit.
        most: Nodes that a Loop may become.
        room: Bytes that the model may take.
    """
    if not any(match.is_op(n, "Loop") for _, graph in model.graphs() for n in graph.nodes):
        return 0

    def judge(before: Exported, after: Exported, made: list[str]) -> str:
        return tentative.oversize(before, after, room)

    def rewrite(graph: gs.Graph, loop: gs.Node) -> bool:
        return unroll(graph, loop, most)

    return tentative.keep(model, Rule("unroll", ("Loop",), rewrite), ctx, judge)


def unroll(graph: gs.Graph, loop: gs.Node, most: int) -> bool:
    """Put the iterations of a Loop one after the other."""
    body = loop.attrs.get("body")
    trips = match.scalar(loop.inputs[0]) if match.given(loop, 0) else None
    if not isinstance(body, gs.Graph) or trips is None or trips < 1 or not _endless(loop, body):
        return False
    if not all(_repeatable(node) for node in body.nodes):
        return match.miss("its body has bodies, random ops or ops of other domains")
    carried = len(loop.inputs) - 2
    scans = len(body.outputs) - 1 - carried
    size = int(trips) * (len(body.nodes) + scans) + scans
    if size > most:
        return match.miss(f"it would be {size} nodes, the budget is {most}")
    if graph.opset < ANY_IDENTITY and any(shapes.dtype(t) is None for t in loop.inputs[2:]):
        return False

    _write(graph, loop, body, int(trips))
    return True


def _endless(loop: gs.Node, body: gs.Graph) -> bool:
    """Whether the condition of a Loop is always true."""
    if match.given(loop, 1) and match.scalar(loop.inputs[1]) is not True:
        return False
    condition = body.outputs[0]
    node = match.producer(condition)
    while node is not None and match.is_op(node, "Identity"):
        condition = node.inputs[0]
        node = match.producer(condition)
    return condition is body.inputs[1] or match.scalar(condition) is True


def _repeatable(node: gs.Node) -> bool:
    """Whether copies of a node do what it does iteration after iteration."""
    return (
        node.domain in match.STANDARD
        and not match.is_op(node, *RANDOM)
        and next(ir.bodies(node), None) is None
    )


def _write(graph: gs.Graph, loop: gs.Node, body: gs.Graph, trips: int) -> None:
    """Put copies of a body in the place of a Loop."""
    values, outputs = list(loop.inputs[2:]), list(loop.outputs)
    count, label = len(values), ir.label(loop)
    pieces: list[list[gs.Tensor]] = [[] for _ in body.outputs[1 + count :]]
    loop.outputs = []
    for i in range(trips):
        known = {id(t): v for t, v in zip(body.inputs[2:], values, strict=True)}
        known[id(body.inputs[0])] = ir.Constant(f"{label}.i{i}", np.array(i, np.int64))
        known[id(body.inputs[1])] = ir.Constant(f"{label}.true", np.array(True))
        if i == trips - 1:
            known |= _last(body, outputs[:count], set(known))
        for node in body.nodes:
            _copy(graph, node, known, f"{label}.{i}")
        values = [known.get(id(t), t) for t in body.outputs[1 : 1 + count]]
        for piece, tensor in zip(pieces, body.outputs[1 + count :], strict=True):
            piece.append(known.get(id(tensor), tensor))
    for out, value in zip(outputs, values, strict=False):
        if out is not value and not match.replace(out, value):
            match.insert(graph, ir.Node("Identity", "", {}, [value], [out]))
    for out, piece in zip(outputs[count:], pieces, strict=False):
        if out.outputs or match.fetched(out):
            _stack(graph, piece, out)
    match.remove(loop)


def _last(body: gs.Graph, outputs: list[gs.Tensor], known: set[int]) -> dict[int, gs.Tensor]:
    """Return what the last iteration makes: the Loop's own outputs, where nodes make them."""
    found: dict[int, gs.Tensor] = {}
    for tensor, out in zip(body.outputs[1:], outputs, strict=False):
        maker = match.producer(tensor)
        inside = maker is not None and match.here(body, maker)
        if inside and id(tensor) not in known and id(tensor) not in found:
            found[id(tensor)] = out
    return found


def _copy(graph: gs.Graph, node: gs.Node, known: dict[int, gs.Tensor], label: str) -> None:
    """Add a copy of a node; `known` says what stands for the tensors of the body."""
    for tensor in node.outputs:
        if id(tensor) not in known:
            name = f"{label}.{tensor.name}" if tensor.name else ""
            known[id(tensor)] = ir.Variable(name, dtype=shapes.dtype(tensor))
    inputs = [known.get(id(t), t) for t in node.inputs]
    outputs = [known[id(t)] for t in node.outputs]
    name = f"{label}.{node.name}" if node.name else ""
    match.insert(graph, ir.Node(node.op, name, dict(node.attrs), inputs, outputs, node.domain))


def _stack(graph: gs.Graph, pieces: list[gs.Tensor], out: gs.Tensor) -> None:
    """Put tensors together along a new first axis."""
    axes = ir.Constant(f"{out.name}.axes", np.array([0], np.int64))
    by_input = graph.opset >= AXES_AS_INPUT
    alone = len(pieces) == 1
    wide = [out] if alone else [ir.Variable(f"{out.name}.{i}") for i in range(len(pieces))]
    for tensor, raised in zip(pieces, wide, strict=True):
        inputs = [tensor, axes] if by_input else [tensor]
        attributes = {} if by_input else {"axes": [0]}
        match.insert(graph, ir.Node("Unsqueeze", "", attributes, inputs, [raised]))
    if not alone:
        match.insert(graph, ir.Node("Concat", "", {"axis": 0}, wide, [out]))

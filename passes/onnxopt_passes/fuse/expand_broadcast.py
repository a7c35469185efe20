"""Operands that are widened for an op that widens them itself.

op(Expand(x, shape), y)  ->  op(x, y)        y has the axes that Expand widens
op(Tile(x, repeats), y)  ->  op(x, y)        the same, where Tile repeats axes of size 1 alone

Elementwise ops spread their operands as they read them; spreading one before that writes and reads
a larger tensor for nothing. Every axis that is widened must have the same size, or symbol, in
another operand, so that the result stays as wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from onnxopt import match, shapes
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.model.interface import Dim

Dims: TypeAlias = "tuple[Dim, ...] | None"

BROADCASTS = 8
"""From this opset on there is an Expand, and all ops below broadcast as in numpy."""

OPS = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Mean", "Sum", "Where", "PRelu"),
    *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
"""Ops that compute each element from the broadcast inputs."""


def drop_expand(graph: gs.Graph, node: gs.Node) -> bool:
    """Let an elementwise op read what was expanded for it as it was."""
    if graph.opset < BROADCASTS:
        return False
    for place, tensor in enumerate(node.inputs):
        expand = match.producer(tensor)
        if expand is None or not match.is_op(expand, "Expand", "Tile"):
            continue
        if node.op == "PRelu" and place == 0:
            continue  # its output has the shape of this operand
        others = [shapes.dims(t) for t in node.inputs if t is not tensor]
        x = expand.inputs[0]
        if not _covered(*_widened(expand), others):
            match.miss("no other operand is known to have the axes that it is expanded along")
            continue
        if match.quantized(x, node.outputs[0]):
            continue

        node.inputs = [x if t is tensor else t for t in node.inputs]
        return True
    return False


def _widened(node: gs.Node) -> tuple[Dims, Dims]:
    """Return the axes of a tensor before and behind an Expand or a Tile."""
    narrow = shapes.dims(node.inputs[0])
    if node.op == "Expand":
        return narrow, shapes.dims(node.outputs[0])
    repeats = match.constant(node.inputs[1])
    if narrow is None or repeats is None or len(repeats) != len(narrow):
        return narrow, None
    pairs = list(zip(narrow, repeats.tolist(), strict=True))
    if any(times != 1 and d != 1 for d, times in pairs):
        return narrow, None
    named = tuple(f"?{i}" if d is None else d for i, d in enumerate(narrow))  # each its own axis
    return named, tuple(n if t == 1 else t for n, (_, t) in zip(named, pairs, strict=True))


def _covered(
    narrow: Dims,
    wide: Dims,
    others: list[Dims],
) -> bool:
    """Whether other operands widen one to what was made of it."""
    if narrow is None or wide is None or len(narrow) > len(wide):
        return False
    padded = (1,) * (len(wide) - len(narrow)) + tuple(narrow)
    for i in range(1, len(wide) + 1):
        before, after = padded[-i], wide[-i]
        if before == after and before is not None:
            continue
        found = [d[-i] for d in others if d is not None and len(d) >= i]
        if after is None or after not in found:
            return False
    rank = max((len(d) for d in others if d is not None), default=0)
    return rank >= len(wide) or len(narrow) == len(wide)


RULES: tuple[Rule, ...] = (Rule("expand_broadcast", OPS, drop_expand),)
"""The rule of this file."""

"""Arithmetic with a neutral constant: x * 1, x / 1, x + 0, x - 0, x ** 1, x and true, ... -> x.

The constant may stand on either side where the op commutes. It must not widen the result: its
shape fits into that of x (a [1,1,1,1] of ones would raise the rank of a matrix). Where with a
constant condition is the branch that it picks, if the other one and the condition fit into it.

Values stay bit by bit but for one case: x + 0.0 turns -0.0 into the equal 0.0, and is dropped all
the same. Nothing here looks at x: x * 0, x / x and x - x are no constants, for x may be NaN.
Before opset 7 broadcasting had attributes of its own: left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.rewrite import Rule
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.model.interface import Dim

BROADCASTING = 7
"""Operands broadcast as in numpy from this opset on."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Neutral:
    """The constant that leaves the other operand as it is, and on which sides it does so."""

    value: int
    commutes: bool = False


NEUTRAL = {
    "Mul": Neutral(1, commutes=True),
    "Div": Neutral(1),
    "Add": Neutral(0, commutes=True),
    "Sub": Neutral(0),
    "Pow": Neutral(1),
    "And": Neutral(1, commutes=True),
    "Or": Neutral(0, commutes=True),
    "Xor": Neutral(0, commutes=True),
    "BitwiseOr": Neutral(0, commutes=True),
    "BitwiseXor": Neutral(0, commutes=True),
    "BitShift": Neutral(0),
}


def fits(shape: tuple[Dim, ...] | None, into: tuple[Dim, ...] | None) -> bool:
    """Whether broadcasting a tensor of one shape with one of another gives the other shape."""
    if shape == ():
        return True
    if shape is None or into is None or len(shape) > len(into):
        return False
    pairs = zip(reversed(shape), reversed(into), strict=False)
    return all(a == 1 or (a is not None and a == b) for a, b in pairs)


def drop_neutral(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace an operation with its neutral constant by its other operand."""
    if graph.opset < BROADCASTING or len(node.inputs) != 2:
        return False
    neutral = NEUTRAL[node.op]
    for kept, other in ((0, 1), (1, 0)) if neutral.commutes else ((0, 1),):
        source, values = node.inputs[kept], match.constant(node.inputs[other])
        if values is None or not bool((values == neutral.value).all()):
            continue
        if not fits(values.shape, shapes.dims(source)) or not _keeps_values(node, source):
            continue
        return bypass(graph, node, source)
    return False


def _keeps_values(node: gs.Node, source: gs.Tensor) -> bool:
    """Whether no value passes through another type: runtimes raise integers as doubles."""
    return node.op != "Pow" or str(shapes.dtype(source)) in FLOATS


def drop_where(graph: gs.Graph, node: gs.Node) -> bool:
    """Replace a Where whose condition is the same constant everywhere by the branch it picks."""
    condition = match.constant(node.inputs[0])
    if condition is None or not condition.size or condition.min() != condition.max():
        return False
    picked, other = node.inputs[1:] if condition.min() else reversed(node.inputs[1:])
    into = shapes.dims(picked)
    if not fits(condition.shape, into) or not fits(shapes.dims(other), into):
        return False
    return bypass(graph, node, picked)


RULES: tuple[Rule, ...] = (
    Rule("neutral", tuple(NEUTRAL), drop_neutral),
    Rule("where", ("Where",), drop_where),
)
"""In the order in which they are tried."""

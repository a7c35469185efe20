"""Chains of ops that change the shape and leave the order of the elements alone.

Reshape(f(x), shape)              -> Reshape(x, shape)     f: Reshape, Squeeze, Unsqueeze, Flatten
Flatten(f(x))                     -> Reshape(x, [a, -1]) or [-1, b], a or b being known
Flatten(Flatten(x), axis 0 or 1)  -> Flatten(x)
Squeeze or Unsqueeze(Reshape(x))  -> Reshape(x)
Reduce(x, keepdims=0) + Unsqueeze -> Reduce(x, keepdims=1), and back with Squeeze

Squeeze and Unsqueeze among themselves are the matter of `ones`.

A 0 in a shape copies the axis at its place from f(x). It stays only if x has the same axis there;
else its size has to be known, or to follow from all others. Sizes computed by the model may turn
out to be 0, and are held to the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxopt import match, shape_values, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes
from onnxopt_passes.clean.bypass import bypass
from onnxopt_passes.clean.islands import REDUCTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

KEEP_ORDER = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")

SHAPE_AS_INPUT = 5
"""Reshape takes its shape as an input from this opset on."""


def merge_reshapes(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a Reshape read what the op before it reads."""
    between = node.inputs[0]
    inner = match.sole(graph, between, *KEEP_ORDER)
    literal = axes.integer(node, "allowzero", 0)
    if inner is None or literal is None or not match.given(node, 1):
        return False
    source, shape = inner.inputs[0], node.inputs[1]
    if literal == 0 and not _carries(shape, between, source):
        values = match.constant(shape)
        wanted = None if values is None else _resolved(values.reshape(-1).tolist(), between, source)
        if wanted is None:
            return False
        shape = axes.integers(f"{node.outputs[0].name}.shape", wanted)

    node.inputs = [source, shape]
    return True


def _carries(shape: gs.Tensor, between: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether every element is one that is never 0, or the size of that very axis in both."""
    wanted = shape_values.elements(shape)
    return wanted is not None and all(
        (isinstance(e, int) and e != 0) or _copied(e, i, between, source)
        for i, e in enumerate(wanted)
    )


def _copied(element: shapes.Element, index: int, between: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether copying that axis from either tensor gives the element; 0 stands for any."""
    there, here = shapes.axis(between, index), shapes.axis(source, index)
    return there is not None and there == here and element in (0, there)


def _resolved(wanted: list[int], between: gs.Tensor, source: gs.Tensor) -> list[int] | None:
    """Return a shape of constants without the zeros that copy an axis which `source` lacks."""
    sizes = [
        axes.size(between, i) if e == 0 and not _copied(e, i, between, source) else e
        for i, e in enumerate(wanted)
    ]
    missing = sum(s is None for s in sizes)
    if missing > 1 or (missing and any(s is not None and s <= 0 for s in sizes)):
        return None
    return [-1 if s is None else s for s in sizes]


def flatten_to_reshape(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a Flatten that has one known size read what the op before it reads, as a Reshape."""
    inner = match.sole(graph, node.inputs[0], *KEEP_ORDER)
    axis, found = axes.integer(node, "axis", 1), shapes.dims(node.inputs[0])
    if inner is None or found is None or axis is None or graph.opset < SHAPE_AS_INPUT:
        return False
    if not -len(found) <= axis <= len(found):
        return False
    axis = axis + len(found) if axis < 0 else axis
    rows, columns = _product(found[:axis]), _product(found[axis:])
    if rows is None and columns is None:
        return False
    shape = [-1, columns] if rows is None and columns is not None else [rows or -1, -1]

    out, source = node.outputs[0], inner.inputs[0]
    wanted = axes.integers(f"{out.name}.shape", shape)
    match.remove(node)
    match.insert(graph, ir.Node("Reshape", node.name, {}, [source, wanted], [out]))
    return True


def _product(found: Sequence[int | str | None]) -> int | None:
    """Return the product of sizes, None unless all are known and none is 0."""
    sizes = [d for d in found if isinstance(d, int) and d > 0]
    return math.prod(sizes) if len(sizes) == len(found) else None


def merge_flattens(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop a Flatten of a Flatten, or the one below."""
    inner = match.producer(node.inputs[0])
    if inner is None or not match.is_op(inner, "Flatten"):
        return False
    axis = axes.integer(node, "axis", 1)
    if axis in (1, -1):
        return bypass(graph, node, node.inputs[0])
    if axis not in (0, -2) or match.sole(graph, node.inputs[0]) is None:
        return False

    node.attrs["axis"] = 0
    node.inputs = [inner.inputs[0]]
    return True


def absorb_axes(graph: gs.Graph, node: gs.Node) -> bool:
    """Let the Reshape above put in or leave out the axes of an Unsqueeze or a Squeeze."""
    inner = match.sole(graph, node.inputs[0], "Reshape")
    if inner is None or not match.given(inner, 1):
        return False
    values, named = match.constant(inner.inputs[1]), axes.axes_of(node)
    if values is None or not named:
        return False
    old = [int(v) for v in values.reshape(-1)]
    rank = len(old) + (len(named) if node.op == "Unsqueeze" else 0)
    chosen = axes.normal(named, rank)
    if chosen is None:
        return False
    new = _with_ones(old, chosen, rank) if node.op == "Unsqueeze" else _without(old, chosen)
    if new is None or ([i for i, v in enumerate(old) if v == 0] != _zeros(new)):
        return False

    out = node.outputs[0]
    match.remove(node)
    inner.inputs = [inner.inputs[0], axes.integers(f"{out.name}.shape", new)]
    inner.outputs = [out]
    return True


def _with_ones(shape: list[int], at: list[int], rank: int) -> list[int]:
    rest = iter(shape)
    return [1 if i in at else next(rest) for i in range(rank)]


def _without(shape: list[int], at: list[int]) -> list[int] | None:
    if any(shape[i] != 1 for i in at):
        return None
    return [d for i, d in enumerate(shape) if i not in at]


def _zeros(shape: list[int]) -> list[int]:
    return [i for i, d in enumerate(shape) if d == 0]


def keep_reduced(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a reduction keep the axes that are put back right after it, or drop them itself."""
    inner = match.sole(graph, node.inputs[0], *REDUCTIONS, "ArgMax", "ArgMin")
    if inner is None:
        return False
    back = node.op == "Unsqueeze"
    if axes.integer(inner, "keepdims", 1) != (0 if back else 1):
        return False
    rank = axes.rank(inner.inputs[0])
    reduced = _reduced(inner, rank)
    named = axes.axes_of(node) if back else axes.squeezed(node)
    if not reduced or not named or not axes.same(reduced, named, rank):
        return False

    out = node.outputs[0]
    match.remove(node)
    inner.attrs["keepdims"] = int(back)
    inner.outputs = [out]
    return True


def _reduced(node: gs.Node, rank: int | None) -> list[int] | None:
    """Return the axes that a reduction reduces, None if they are not known."""
    if node.op in ("ArgMax", "ArgMin"):
        axis = axes.integer(node, "axis", 0)
        return None if axis is None else [axis]
    named = axes.axes_of(node)
    if named is None and axes.silent(node) and rank is not None:
        return list(range(rank)) if axes.integer(node, "noop_with_empty_axes", 0) == 0 else None
    return named


RULES: tuple[Rule, ...] = (
    Rule("merge_reshapes", ("Reshape",), merge_reshapes),
    Rule("merge_flattens", ("Flatten",), merge_flattens),
    Rule("flatten_to_reshape", ("Flatten",), flatten_to_reshape),
    Rule("absorb_axes", ("Squeeze", "Unsqueeze"), absorb_axes),
    Rule("keep_reduced", ("Squeeze", "Unsqueeze"), keep_reduced),
)
"""In the order in which they are tried."""

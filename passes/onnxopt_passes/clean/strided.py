"""A Gather that takes every element in its order.

Gather(Reshape(x, [-1]), S * Range(0, n, 1)[:, None, ..] + K)  ->  Reshape(x, [-1, K's own axes])

K is a constant that counts from 0 to S - 1, n is the length of x and S the number of elements of
each of its rows: the indices count from 0 to the last. torch.onnx writes `as_strided` this way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shape_values, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def gather_all(graph: gs.Graph, node: gs.Node) -> bool:
    """Make a Reshape of a Gather whose indices count all elements of a tensor."""
    flat, total = (match.producer(t) for t in node.inputs)
    if flat is None or total is None:
        return False
    if not match.is_op(flat, "Reshape") or not match.is_op(total, "Add"):
        return False
    shape = match.integers(flat, 1, "shape")
    parts = _constant_last(total)
    if shape != [-1] or parts is None:
        return False
    within, source = parts[1], flat.inputs[0]
    lengths = _rows(parts[0], within)
    found = shapes.dims(source)
    if lengths is None or not found or lengths != shapes.axis(source, 0):
        return False
    rest = [d for d in found[1:] if isinstance(d, int)]
    if len(rest) + 1 < len(found) or within.size != math.prod(rest):
        return False

    out = node.outputs[0]
    wanted = axes.integers(f"{out.name}.shape", [-1, *within.shape[1:]])
    match.remove(node)
    match.insert(graph, ir.Node("Reshape", node.name, {}, [source, wanted], [out]))
    return True


def _constant_last(node: gs.Node) -> tuple[gs.Tensor, np.ndarray] | None:
    """Return the operands of an op of two, a constant and another."""
    for one, other in (node.inputs, node.inputs[::-1]):
        value = match.constant(other)
        if value is not None:
            return one, value
    return None


def _rows(starts: gs.Tensor, within: np.ndarray) -> shapes.Element | None:
    """Return how many rows the indices count, None if they leave any out or take it twice."""
    stack = match.producer(starts)
    if stack is None or not match.is_op(stack, "Unsqueeze") or within.shape[:1] != (1,):
        return None
    if axes.axes_of(stack) != list(range(1, within.ndim)):
        return None
    scaled = match.producer(stack.inputs[0])
    parts = _constant_last(scaled) if match.is_op(scaled, "Mul") and scaled is not None else None
    count = None if parts is None else match.producer(parts[0])
    if parts is None or count is None or not match.is_op(count, "Range"):
        return None
    if parts[1].size != 1 or int(parts[1].reshape(())) != within.size:
        return None
    if not np.array_equal(within.reshape(-1), np.arange(within.size)):
        return None
    if [match.scalar(count.inputs[i]) for i in (0, 2)] != [0, 1]:
        return None
    lengths = shape_values.elements(count.inputs[1])
    return lengths[0] if lengths is not None and len(lengths) == 1 else None


RULES: tuple[Rule, ...] = (Rule("gather_all", ("Gather",), gather_all),)
"""The rule."""

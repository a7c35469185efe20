"""Reshape(x, computed)  ->  Reshape(x, constant), with 0 for a dimension that x has there.

The shape is followed back (`shape_values`) to numbers and to dimensions that are known only
when the model runs. Where element i is dimension i of x itself, by symbol or because it was read
off the same tensor, 0 says so ("copy"); one other element may be unknown, and becomes -1.

Guards: a node computes the shape; `allowzero` is not set, since then 0 is a size; no element is
unknown beside an explicit -1; no more than one is. [N, S, 12, 64] of x[N, S, 768] is
[0, 0, 12, 64], without any -1.

Exact wherever the Reshape itself succeeds, but for one case: with a -1 in the new shape and a
dimension beside it that is 0 at run time, -1 has no solution, and the Reshape fails where the
computed shape worked. onnxruntime makes the same trade when it optimizes. A 0 in the computed
shape means "copy" there too, so that copied dimensions of size 0 stay right.

`known` gives shape arithmetic whose every element is a number to constant folding: Shape and Size
of static tensors (`start` and `end` respected), a Gather of a static dimension although others are
dynamic, and what is computed of those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shape_values, shapes
from onnxopt.model import ir
from onnxopt.rewrite import edit_id

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.shape_values import Elements
    from onnxopt.shapes import Element

SHAPE_INPUT = 5
"""From this opset on, the shape is an input of Reshape."""


def known(tensor: gs.Tensor, memo: dict[int, Elements]) -> np.ndarray | None:
    """Return the value of shape arithmetic that is the same in every run, None if it is not."""
    if not match.is_op(match.producer(tensor), *shape_values.FOLLOW):
        return None
    found = shape_values.elements(tensor, memo=memo)
    shape, kind = shapes.static(tensor), shapes.dtype(tensor)
    if found is None or not shape_values.whole(found) or shape is None:
        return None
    return np.array(found, kind).reshape(shape)


def settle(model: Model, ctx: Context) -> int:
    """Give every Reshape a constant shape whose computed one can be written as such."""
    made = 0
    for path, graph in model.graphs():
        if graph.opset < SHAPE_INPUT:
            continue
        memo: dict[int, Elements] = {}
        for node in graph.nodes:
            if not match.is_op(node, "Reshape") or len(node.inputs) != 2:
                continue
            shape = _constant_shape(node, memo)
            if shape is not None and ctx.allow(edit_id("shape", path, node)):
                name = f"{node.outputs[0].name}.shape"
                node.inputs[1] = ir.Constant(name, np.array(shape, np.int64))
                made += 1
    return made


def _constant_shape(node: gs.Node, memo: dict[int, Elements]) -> list[int] | None:
    """Return the shape to write for a Reshape; None if there is none, or it is constant already."""
    data, shape = node.inputs
    if match.producer(shape) is None or match.constant(shape) is not None:
        return None
    if node.attrs.get("allowzero", 0) != 0 or shapes.dims(data) is None:
        return None
    found = shape_values.elements(shape, memo=memo)
    if found is None:
        return None
    written = [_written(data, i, e) for i, e in enumerate(found)]
    if not _determined(written):
        return None
    sizes = [-1 if w is None else w for w in written]
    empty = any(w == 0 and shapes.axis(data, i) == 0 for i, w in enumerate(sizes))
    return None if empty and -1 in sizes else sizes


def _written(data: gs.Tensor, index: int, element: Element) -> int | None:
    """Return how to write one element, None if it is unknown."""
    if isinstance(element, int):
        return element
    return 0 if shapes.axis(data, index) == element else None


def _determined(written: list[int | None]) -> bool:
    """Whether at most one size is left to be found from the others."""
    return sum(w is None or w == -1 for w in written) <= 1

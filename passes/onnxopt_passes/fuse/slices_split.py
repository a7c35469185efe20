"""x[:a], x[a:b], ..., x[z:]  ->  Split(x; a, b - a, ...)        along one axis.

One node that walks through the data once, in the place of one a part. The parts have to be all of
the axis, whose size is known, and in this graph.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SIZES_AS_INPUT = 13
"""Split takes its sizes as an input from this opset on."""

SPLITTABLE = (np.float32, np.float64, np.int32, np.int64, np.uint8)
"""Types that onnxruntime's Split knows in all its versions."""

MOST = 64
"""Parts; a tensor that is taken apart number by number stays."""

Part = tuple[int, int, int]
"""Axis, start and end of what a Slice takes."""


def fuse_slices(graph: gs.Graph, node: gs.Node) -> bool:
    """Take all parts of an axis by one Split."""
    x = node.inputs[0]
    first = sliced(node)
    size = None if first is None else shapes.dims(x)[first[0]]  # type: ignore[index]
    if first is None or first[1] != 0 or not isinstance(size, int) or first[2] == size:
        return False
    parts = _parts(graph, x, first[0], size)
    if parts is None or shapes.dtype(x) not in SPLITTABLE:
        return False
    if any(match.quantized(x, n.outputs[0]) for _, n in parts):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    _write(graph, parts, first[0])
    return True


def _parts(
    graph: gs.Graph, x: gs.Tensor, axis: int, size: int
) -> list[tuple[Part, gs.Node]] | None:
    """Return what takes an axis apart, in order, if it is all of the axis and twice nothing."""
    found = []
    for node in x.outputs[: MOST * 2]:
        part = sliced(node) if match.is_op(node, "Slice") and node.inputs[0] is x else None
        if part is not None and part[0] == axis and match.here(graph, node):
            found.append((part, node))
    found.sort(key=lambda entry: entry[0])
    bounds = [part for part, _ in found]
    gaps = [a[2] != b[1] for a, b in pairwise(bounds)]
    if len(found) < 2 or len(found) > MOST:
        return None
    if any(gaps) or bounds[0][1] != 0 or bounds[-1][2] != size:
        match.miss("its parts overlap, or are not all of the axis")
        return None
    return found


def sliced(node: gs.Node) -> Part | None:
    """Return what a Slice takes, if that is a part of one axis whose size is known."""
    starts, ends = match.integers(node, 1, "starts"), match.integers(node, 2, "ends")
    steps, dims = match.integers(node, 4, "steps"), shapes.dims(node.inputs[0])
    named = match.integers(node, 3, "axes")
    if named is None and not match.given(node, 3) and "axes" not in node.attrs:
        named = [0]
    if steps is None and match.given(node, 4):
        return None
    if starts is None or ends is None or named is None or dims is None:
        return None
    if not len(starts) == len(ends) == len(named) == 1 or (steps or [1]) != [1]:
        return None
    axis = named[0] + len(dims) if named[0] < 0 else named[0]
    size = dims[axis] if 0 <= axis < len(dims) else None
    if not isinstance(size, int):
        return None
    start, end, _ = slice(starts[0], ends[0]).indices(size)
    return (axis, start, end) if start < end else None


def _write(graph: gs.Graph, parts: list[tuple[Part, gs.Node]], axis: int) -> None:
    """Put a Split in the place of Slices."""
    first = parts[0][1]
    x = first.inputs[0]
    sizes = [end - start for (_, start, end), _ in parts]
    outputs = [node.outputs[0] for _, node in parts]
    for _, node in parts:
        match.remove(node)
    attributes: dict[str, object] = {"axis": axis}
    inputs = [x]
    if graph.opset < SIZES_AS_INPUT:
        attributes["split"] = sizes
    else:
        inputs.append(ir.Constant(f"{outputs[0].name}.sizes", np.array(sizes, np.int64)))
    match.insert(graph, ir.Node("Split", first.name, attributes, inputs, outputs))


RULES: tuple[Rule, ...] = (Rule("slices_split", ("Slice",), fuse_slices),)
"""The rule of this file."""

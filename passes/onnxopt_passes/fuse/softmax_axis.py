"""Softmax(x; axis)  ->  e / ReduceSum(e),  e = Exp(x - ReduceMax(x))        axis not the last.

The definition, by ops that run along the last axis whatever they reduce. onnxruntime's Softmax
turns the axis to the end and back, and then computes short rows one by one. For float32, and for
`ort-cpu` only: kept where it measures faster.
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

ONE_AXIS = 13
"""From this opset on Softmax is along one axis; before, along all from that one on."""

MAX_AXES = 18
"""From this opset on ReduceMax has its axes as an input."""


def expand_softmax(graph: gs.Graph, node: gs.Node) -> bool:
    """Write out a Softmax along an axis that is not the last."""
    x, out = node.inputs[0], node.outputs[0]
    dims, axis = shapes.dims(x), match.attribute(node, "axis", -1)
    if graph.opset < ONE_AXIS or dims is None or not isinstance(axis, int):
        return False
    if scalars.kind(x, out) != np.float32 or not -len(dims) <= axis < len(dims):
        return False
    if all(d == 1 for d in dims[axis % len(dims) + 1 :]):
        return False
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    axes = ir.Constant(f"{out.name}.axis", np.array([axis], np.int64))
    by_input = graph.opset >= MAX_AXES
    most = _reduced(graph, "ReduceMax", f"{out.name}.max", x, axes if by_input else axis)
    below = scalars.step(graph, "Sub", f"{out.name}.below", x, x, most)
    e = scalars.step(graph, "Exp", f"{out.name}.exp", x, below)
    total = _reduced(graph, "ReduceSum", f"{out.name}.sum", e, axes)
    return scalars.finish(graph, node, ir.Node("Div", node.name, inputs=[e, total]))


def _reduced(
    graph: gs.Graph, op: str, name: str, x: gs.Tensor, axes: gs.Constant | int
) -> gs.Tensor:
    """Add a reduction that keeps its axis; return its output."""
    inputs = [x] if isinstance(axes, int) else [x, axes]
    attributes = {"axes": [axes]} if isinstance(axes, int) else {}
    out = ir.Variable(name, dtype=np.dtype(np.float32))
    match.insert(graph, ir.Node(op, name, attributes, inputs, [out]))
    return out


ORT_CPU_RULES: tuple[Rule, ...] = (Rule("softmax_axis", ("Softmax",), expand_softmax),)
"""The rule of this file."""

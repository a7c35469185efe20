"""LayerNormalization from its decomposition.

d = x - mean(x)     d / sqrt(mean(d * d) + eps) * w + b   ->  LayerNormalization(x, w, b)

The means are over the last axes, and w and b are constants of these axes; where there is no w it
is ones. onnxruntime recognises the form with Div by itself, but not the others that `normal`
knows. Before opset 17, which has LayerNormalization, those become the form with Div, if there are w
and b. For float32 only: for float64 onnxruntime's LayerNormalization takes twice as long as the
decomposition.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import normal, scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LAYER_NORM = 17
"""The opset that has it."""


def fuse_layer_norm(graph: gs.Graph, root: gs.Node) -> bool:
    """Write a decomposed LayerNormalization as one node, or as onnxruntime knows it."""
    found = normal.read(graph, root)
    sizes = None if found is None else _sizes(found)
    if graph.opset < scalars.BROADCASTS or found is None or sizes is None:
        return False
    if scalars.kind(found.x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")

    def fitting(values: np.ndarray) -> np.ndarray | None:
        return values if values.shape == sizes else None

    last, weight = normal.taken(graph, found.last, "Mul", fitting)
    last, bias = normal.taken(graph, last, "Add", fitting)
    if match.quantized(found.x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    if graph.opset < LAYER_NORM:
        return weight is not None and bias is not None and _order(graph, found, root)
    if weight is None and 4 * math.prod(sizes) > scalars.SHARED:
        return match.miss("it has no weight, and one of ones would make the file grow")

    name = last.outputs[0].name
    weight = np.ones(sizes, np.float32) if weight is None else weight
    inputs = [found.x, ir.Constant(f"{name}.weight", weight)]
    if bias is not None:
        inputs.append(ir.Constant(f"{name}.bias", bias))
    attributes = {"axis": found.axes[0], "epsilon": found.epsilon}
    new = ir.Node("LayerNormalization", last.name, attrs=attributes, inputs=inputs)
    return scalars.finish(graph, last, new)


def _order(graph: gs.Graph, found: normal.Normal, root: gs.Node) -> bool:
    """Divide by the root instead of multiplying by its inverse; the square becomes a Pow."""
    quotient = found.last
    square = match.producer(found.square)
    if quotient.op != "Mul" or square is None or len(found.axes) != 1:
        return False
    difference = square.inputs[0]
    if square.op == "Mul":
        two = scalars.constant(f"{found.square.name}.two", 2, np.dtype(np.float32))
        scalars.finish(graph, square, ir.Node("Pow", square.name, inputs=[difference, two]))
    inputs = [difference, root.outputs[0]]
    return scalars.finish(graph, quotient, ir.Node("Div", quotient.name, inputs=inputs))


def _sizes(found: normal.Normal) -> tuple[int, ...] | None:
    """Return the sizes of the axes of a normalisation, if they are the last ones and known."""
    dims = shapes.dims(found.x) or ()
    first = found.axes[0]
    if found.axes != tuple(range(first, len(dims))):
        return None
    sizes = tuple(d for d in dims[first:] if isinstance(d, int) and d > 0)
    if len(sizes) != len(dims) - first:
        match.miss("the sizes of its axes are not known")
        return None
    return sizes


RULES: tuple[Rule, ...] = (Rule("layer_norm", ("Sqrt",), fuse_layer_norm),)
"""Before those that would take its constants away, and after that for InstanceNormalization."""

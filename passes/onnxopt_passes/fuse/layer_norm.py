"""LayerNormalization from its decomposition.

d = x - mean(x)     d / sqrt(mean(d * d) + eps) * w + b   ->  LayerNormalization(x, w, b)

The means are over the last axes, and w and b are constants of these axes; where there is no w it
is ones. onnxruntime recognises the form with Div by itself, but not the others that `normal`
knows. From opset 17 on, which has LayerNormalization, and for float32 only: for float64
onnxruntime's LayerNormalization takes twice as long as the decomposition.
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
    """Write a decomposed LayerNormalization as one node."""
    found = normal.read(graph, root)
    if graph.opset < LAYER_NORM or found is None:
        return False
    sizes = _sizes(found)
    if sizes is None:
        return False
    if scalars.kind(found.x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")

    def fitting(values: np.ndarray) -> np.ndarray | None:
        return values if values.shape == sizes else None

    last, weight = normal.taken(graph, found.last, "Mul", fitting)
    last, bias = normal.taken(graph, last, "Add", fitting)
    if match.quantized(found.x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
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

"""InstanceNormalization from its decomposition.

d = x - mean(x)     d / sqrt(mean(d * d) + eps) * w + b   ->  InstanceNormalization(x, w, b)

The means are over all axes but the first two, and w and b are constants with one value a channel;
where there is no w it is ones, where there is no b, zeros. GroupNormalization on a tensor that was
reshaped to groups is the same. onnxruntime makes nothing of the left side.

Tensors of rank 3 are left to LayerNormalization, unless w is by channel. The number of channels is
known, and the type is float32, the only one that onnxruntime has the operator for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import normal, scalars, term

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

IMAGE = 4
"""From this rank on, means over all but the first two axes are taken to be of instances."""

INSTANCE_NORM = 6
"""From this opset on, the operator is what it is today."""


def fuse_instance_norm(graph: gs.Graph, root: gs.Node) -> bool:
    """Write a decomposed InstanceNormalization as one node."""
    found = normal.read(graph, root)
    dims = None if found is None else shapes.dims(found.x)
    if graph.opset < INSTANCE_NORM or found is None or dims is None:
        return False
    if len(dims) < IMAGE - 1 or found.axes != tuple(range(2, len(dims))):
        return False

    def by_channel(values: np.ndarray) -> np.ndarray | None:
        vector = term.vector(values, found.x)
        return None if vector is None or vector[1] != 1 else vector[0]

    last, weight = normal.taken(graph, found.last, "Mul", by_channel)
    last, bias = normal.taken(graph, last, "Add", by_channel)
    if weight is None and (len(dims) < IMAGE or _layer(graph, found, dims[2:])):
        return False
    channels = dims[1]
    if not isinstance(channels, int) or channels < 1:
        return match.miss("the number of channels is not known")
    if scalars.kind(found.x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    if match.quantized(found.x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    if weight is None and 8 * channels > scalars.SHARED:
        return match.miss("it has no weight, and one of ones would make the file grow")

    name = last.outputs[0].name
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    inputs = [
        found.x,
        ir.Constant(f"{name}.weight", ones if weight is None else weight),
        ir.Constant(f"{name}.bias", zeros if bias is None else bias),
    ]
    attributes = {"epsilon": found.epsilon}
    new = ir.Node("InstanceNormalization", last.name, attrs=attributes, inputs=inputs)
    return scalars.finish(graph, last, new)


def _layer(graph: gs.Graph, found: normal.Normal, sizes: tuple[int | str | None, ...]) -> bool:
    """Whether a weight of the axes that the means are over follows: a LayerNormalization."""
    reader = match.sole_reader(graph, found.last.outputs[0], "Mul")
    constants = [] if reader is None else [match.constant(t) for t in reader.inputs]
    return any(v is not None and v.shape == sizes for v in constants)


RULES: tuple[Rule, ...] = (Rule("instance_norm", ("Sqrt",), fuse_instance_norm),)
"""Before that for LayerNormalization, which would take those without weights."""

"""BatchNormalization(op(x, W, b))  ->  op(x, W', b')          op: Conv, ConvTranspose, Gemm.

k  = scale / sqrt(var + epsilon)
W' = W * k                      along the output channels
b' = (b - mean) * k + beta

Only in inference mode, which opsets spell in four ways, and with constant parameters: in training
the statistics are those of the batch. Negative var is left alone, and var + epsilon = 0 gives no
finite weights. See `layer` for the other guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt_passes.fuse import layer as layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


EPSILON = float(np.float32(1e-5))
"""The default; attributes are float32, which shows in a float64 model."""


def fuse_conv_bn(graph: gs.Graph, bn: gs.Node) -> bool:
    """Fold an inference-mode BatchNormalization into the layer that alone feeds it."""
    layer = layers.feeding(graph, bn.inputs[0])
    found = None if layer is None else parameters(graph, bn)
    if layer is None or found is None:
        return False
    k, d, dtype = found
    if dtype != layer.dtype or len(k) != layer.channels:
        return False

    return layers.absorb(graph, layer, bn, k, d)


def parameters(graph: gs.Graph, bn: gs.Node) -> tuple[np.ndarray, np.ndarray, np.dtype] | None:
    """Return k, d and the element type of a BatchNormalization, `x * k + d` in each channel.

    None in training mode, and where it is not constant or not a number.
    """
    if not _infers(graph, bn):
        return None
    params = match.constants(bn.inputs[1:5])
    if params is None or len(params) != 4:
        return None
    first = params[0]
    if first.ndim != 1 or first.dtype not in layers.FLOATS:
        return None
    if any(p.dtype != first.dtype or p.shape != first.shape for p in params):
        return None
    scale, beta, mean, var = (p.astype(np.float64) for p in params)
    epsilon = match.attribute(bn, "epsilon", EPSILON)
    if not isinstance(epsilon, float) or epsilon < 0 or (var < 0).any():
        return None

    with np.errstate(all="ignore"):
        k = scale / np.sqrt(var + epsilon)
        return k, beta - mean * k, first.dtype


def _infers(graph: gs.Graph, bn: gs.Node) -> bool:
    """Whether a BatchNormalization is in inference mode, with statistics a channel."""
    if any(t.name for t in bn.outputs[1:]):
        return False
    if graph.opset >= 14:
        return bool(match.attribute(bn, "training_mode", 0) == 0)
    if graph.opset < 7 and match.attribute(bn, "is_test", 0) != 1:
        return False
    return graph.opset >= 9 or bool(match.attribute(bn, "spatial", 1) == 1)

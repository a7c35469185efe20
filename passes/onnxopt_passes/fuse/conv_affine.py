"""Arithmetic with a constant after a layer  ->  op(x, W', b')     op: Conv, ConvTranspose, Gemm.

op(x, W, b) * k     W' = W * k      b' = b * k      along the output channels
op(x, W, b) / k     W' = W / k      b' = b / k
op(x, W, b) + d     W' = W          b' = b + d
op(x, W, b) - d     W' = W          b' = b - d
d - op(x, W, b)     W' = -W         b' = d - b

k and d are constants: one value, or one a channel, of a shape that does not widen the output. No
divisor may be 0. Before opset 7 broadcasting was an attribute: left alone. See `layer` for the
other guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt_passes.fuse import layer as layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_conv_affine(graph: gs.Graph, node: gs.Node) -> bool:
    """Fold Mul, Div, Add or Sub by a constant into the layer that alone feeds it."""
    if graph.opset < 7:
        return False
    left, right = (match.constant(t) for t in node.inputs)
    values = left if right is None else right
    if values is None:
        return False
    layer = layers.feeding(graph, node.inputs[0 if left is None else 1])
    if layer is None or values.dtype != layer.dtype:
        return False
    constant = layers.per_channel(values, layer.channels, layer.rank)
    if constant is None or (node.op == "Div" and (left is not None or not constant.all())):
        return False

    one, zero = np.ones(layer.channels), np.zeros(layer.channels)
    if node.op == "Mul":
        k, d = constant, zero
    elif node.op == "Div":
        with np.errstate(all="ignore"):
            k, d = one / constant, zero
    elif node.op == "Add":
        k, d = one, constant
    elif left is None:
        k, d = one, -constant
    else:
        k, d = -one, constant

    return layers.absorb(graph, layer, node, k, d)

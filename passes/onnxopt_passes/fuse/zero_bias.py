"""op(x, W, 0)  ->  op(x, W)          op: Conv, ConvTranspose, Gemm.

Exporters that write every bias out give layers without one a bias of zeros, often spread over the
channels at run time. Adding zero changes no sum but -0.0, which equals 0.0.

The bias must be constant, or one constant spread over a constant shape, and all zero. Before
opset 11 a Gemm has to have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_zero_bias(graph: gs.Graph, layer: gs.Node) -> bool:
    """Drop a bias of zeros."""
    if not match.given(layer, 2) or (layer.op == "Gemm" and graph.opset < 11):
        return False
    bias = match.filled(layer.inputs[2])
    if bias is None or bias.dtype.kind != "f" or not bias.size or bias.any():
        return False

    layer.inputs = layer.inputs[:2]
    return True

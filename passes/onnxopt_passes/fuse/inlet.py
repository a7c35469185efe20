"""A linear layer as the tensor that it reads sees it: what scaled and shifted inputs do to it.

op(x * k + d, W, b)  ->  op(x, W', b')          op: Conv, ConvTranspose, Gemm, MatMul

W' = W * k        along the input channels
b' = b + W . d    summed over input channels and taps

The scale is exact with any padding, since zero stays zero. The shift is exact only where every
output sums over all taps: without padding, and not in a ConvTranspose. Other guards as in `layer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt_passes.fuse import layer as layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Inlet:
    """A linear layer with constant weights, seen from the tensor that it reads.

    Attributes:
        node: The layer: one of `layer.LAYERS`, or a MatMul.
        weight: Its weights as (group, outputs, inputs, taps), a view.
        crossed: Whether the layer stores inputs before outputs.
        shape: The weights' own shape.
    """

    node: gs.Node
    weight: np.ndarray
    crossed: bool
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Element type of weights and input."""
        return self.weight.dtype

    @property
    def channels(self) -> int:
        """Number of input channels: axis 1 of what a convolution reads, else the last axis."""
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    def scaled(self, graph: gs.Graph, k: np.ndarray) -> gs.Constant | None:
        """Return weights that scale the input channels by k; None where a guard does not hold."""
        if not layers.replaceable(graph, self.node.inputs[1]):
            return None
        group, _, inputs, _ = self.weight.shape
        factors = np.broadcast_to(k, self.channels).reshape(group, 1, inputs, 1)
        result = layers.times(self.weight, factors, axes=(1, 3))
        if result is None:
            return None
        stored = result.transpose(0, 2, 1, 3) if self.crossed else result
        whole = np.ascontiguousarray(stored.reshape(self.shape))
        return ir.Constant(f"{self.node.outputs[0].name}.weight", whole)

    def shifted(self, d: np.ndarray) -> np.ndarray | None:
        """Return what inputs raised by d add to each output; None where borders differ."""
        node = self.node
        factor = match.attribute(node, "alpha", 1.0) if node.op == "Gemm" else 1.0
        if node.op == "ConvTranspose" or not isinstance(factor, (float, int)):
            return None
        if node.op == "Conv" and not unpadded(node):
            return None
        group, _, inputs, _ = self.weight.shape
        values = np.broadcast_to(d, self.channels).reshape(group, inputs)
        with np.errstate(all="ignore"):
            found = np.einsum("goit,gi->go", self.weight, values)
        return np.asarray(found.reshape(-1) * factor)

    def biased(self, d: np.ndarray) -> gs.Constant | None:
        """Return the layer's bias raised by d an output; None where a guard does not hold."""
        bias = layers.bias(self.node, self.outputs, self.dtype)
        if bias is None:
            return None
        with np.errstate(all="ignore"):
            result = layers.rounded(bias + d, self.dtype)
        return None if result is None else ir.Constant(f"{self.node.outputs[0].name}.bias", result)


def inlet(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> Inlet | None:
    """Return a layer with constant weights that reads a tensor as its data, and as nothing else."""
    if not match.is_op(node, *layers.LAYERS, "MatMul") or len(node.inputs) < 2:
        return None
    if [i for i, t in enumerate(node.inputs) if t is tensor] != [0]:
        return None
    weight = match.constant(node.inputs[1])
    if weight is None or weight.dtype not in layers.FLOATS or not weight.size:
        return None
    if node.op in ("Gemm", "MatMul"):
        return _matrix(graph, node, weight)
    group = match.attribute(node, "group", 1)
    if weight.ndim < 3 or not isinstance(group, int) or group < 1 or len(weight) % group:
        return None
    crossed = node.op == "ConvTranspose"
    view = weight.reshape(group, len(weight) // group, weight.shape[1], -1)
    view = view.transpose(0, 2, 1, 3) if crossed else view
    return Inlet(node, view, crossed, weight.shape)


def _matrix(graph: gs.Graph, node: gs.Node, weight: np.ndarray) -> Inlet | None:
    if weight.ndim != 2:
        return None
    crossed = True
    if node.op == "Gemm":
        sides = [match.attribute(node, name, 0) for name in ("transA", "transB")]
        if graph.opset < 7 or sides[0] != 0 or not isinstance(sides[1], int):
            return None
        crossed = not sides[1]
    view = weight.T if crossed else weight
    return Inlet(node, view[None, :, :, None], crossed, weight.shape)


def unpadded(conv: gs.Node) -> bool:
    """Whether a Conv or pool reads no values beyond the edges of its input."""
    mode = match.attribute(conv, "auto_pad", "NOTSET")
    if mode == "VALID":
        return True
    pads = match.attribute(conv, "pads", [])
    return bool(mode == "NOTSET" and isinstance(pads, list) and not any(pads))

"""A linear layer whose output is scaled and shifted per channel is the layer with other weights.

op(x, W, b) * k + d  ->  op(x, W', b')          op: Conv, ConvTranspose, Gemm

W' = W * k        along the output channels
b' = b * k + d

Exact because the layer is linear in W and b: only the rounding of W * k is new. The guards are that
W and b are constants of float16, float32 or float64, that nobody else reads the layer's output,
that W' and b' are finite, that W' stays out of float16's subnormal numbers, and that the file does
not grow: large weights that others read too stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LAYERS = ("Conv", "ConvTranspose", "Gemm")

FLOATS = (np.float16, np.float32, np.float64)

SHARED = 4096
"""Bytes; smaller weights are copied where others read them too."""


@dataclass(frozen=True)
class Layer:
    """A linear layer with constant weights, whose output one node reads.

    Attributes:
        node: The layer.
        weight: Its weights as (group, inputs, channels of a group, rest): a view that has the
            output channels in one place, whatever the op.
        bias: What it adds to each channel, in float64; zeros where it has no bias.
        shape: The weights' own shape.
    """

    node: gs.Node
    weight: np.ndarray
    bias: np.ndarray
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Element type of weights, bias and output."""
        return self.weight.dtype

    @property
    def channels(self) -> int:
        """Number of output channels; they are axis 1 of the output."""
        return len(self.bias)

    @property
    def rank(self) -> int:
        """Rank of the output."""
        return len(self.shape)


def feeding(graph: gs.Graph, tensor: gs.Tensor) -> Layer | None:
    """Return the layer that makes a tensor if nobody else reads it and its weights are constant."""
    node = match.sole(graph, tensor, *LAYERS)
    if node is None or (node.op == "Gemm" and graph.opset < 7):  # its broadcast was an attribute
        return None
    weight = match.constant(node.inputs[1])
    if weight is None or weight.dtype not in FLOATS or not weight.size:
        return None
    view = _by_channel(node, weight)
    if view is None:
        return None
    held = bias(node, view.shape[0] * view.shape[2], weight.dtype)
    return None if held is None else Layer(node, view, held, weight.shape)


def absorb(graph: gs.Graph, layer: Layer, reader: gs.Node, k: np.ndarray, d: np.ndarray) -> bool:
    """Let a layer compute what its only reader makes of it, `layer * k + d`, and drop the reader.

    False, and nothing done, where a guard does not hold.
    """
    out = reader.outputs[0]
    inputs = adjusted(graph, layer, out.name, k, d)
    if inputs is None:
        return False

    match.remove(reader)
    layer.node.inputs = inputs
    layer.node.outputs = [out]
    layer.node.attrs.pop("beta", None)  # a Gemm's is in its bias now
    return True


def adjusted(
    graph: gs.Graph, layer: Layer, name: str, k: np.ndarray, d: np.ndarray
) -> list[gs.Tensor] | None:
    """Return the inputs that make a layer compute `layer * k + d`; None where a guard fails.

    The bias among them counts once: a Gemm's `beta` is to be dropped.
    """
    inputs = layer.node.inputs[:2]
    if (k != 1).any():
        weight = _scaled(layer, k)
        if weight is None or not replaceable(graph, layer.node.inputs[1]):
            return None
        inputs[1] = ir.Constant(f"{name}.weight", weight)
    if match.given(layer.node, 2) or d.any():
        with np.errstate(all="ignore"):
            values = rounded(layer.bias * k + d, layer.dtype)
        if values is None:
            return None
        inputs.append(ir.Constant(f"{name}.bias", values))
    return inputs


def _by_channel(node: gs.Node, weight: np.ndarray) -> np.ndarray | None:
    """View weights as (group, inputs, channels of a group, rest); None if they do not fit."""
    first = len(weight) if weight.ndim else 0
    if node.op == "Gemm":
        transposed = match.attribute(node, "transB", 0)
        if weight.ndim != 2 or not isinstance(transposed, int):
            return None
        return weight[None, None] if transposed else weight[None, :, :, None]
    if weight.ndim < 3:
        return None
    if node.op == "Conv":
        return weight.reshape(1, 1, first, -1)
    group = match.attribute(node, "group", 1)
    if not isinstance(group, int) or group < 1 or first % group:
        return None
    return weight.reshape(group, first // group, weight.shape[1], -1)


def bias(node: gs.Node, channels: int, dtype: np.dtype) -> np.ndarray | None:
    """Return what a layer adds to each channel; None if that is not constant, or no such thing."""
    if not match.given(node, 2):
        return np.zeros(channels)
    values = match.filled(node.inputs[2])
    if values is None or values.dtype != dtype:
        return None
    if node.op != "Gemm":
        return values.astype(np.float64) if values.shape == (channels,) else None
    beta = match.attribute(node, "beta", 1.0)
    if not isinstance(beta, (float, int)):
        return None
    wide = per_channel(values, channels, rank=2)
    return None if wide is None else wide * beta


def per_channel(values: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """Return the value that each channel gets when an output of that rank is broadcast with these.

    None if they differ along another axis than 1, or would widen the output. Shapes align at the
    last axis: [C] meets the channels of [N, C], but the columns of [N, C, H, W].
    """
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) != rank or shape[1] not in (1, channels) or values.size != shape[1]:
        return None
    return np.broadcast_to(values.astype(np.float64).reshape(-1), channels)


def _scaled(layer: Layer, k: np.ndarray) -> np.ndarray | None:
    """Return the weights times k; None if they overflow, or fade in float16."""
    group, _, channels, _ = layer.weight.shape
    result = times(layer.weight, k.reshape(group, 1, channels, 1), axes=(1, 3))
    return None if result is None else result.reshape(layer.shape)


def times(weight: np.ndarray, factors: np.ndarray, axes: tuple[int, ...]) -> np.ndarray | None:
    """Return weights times factors, which are equal along the axes; None as `_scaled` says."""
    with np.errstate(all="ignore"):
        result = rounded(weight * factors, weight.dtype)
    if result is not None and weight.dtype == np.float16:
        # Real weights come near its subnormal numbers, which lose digits the smaller they are.
        peaks = np.abs(result).max(axis=axes, keepdims=True)
        nonzero = weight.any(axis=axes, keepdims=True) & (factors != 0)
        if (nonzero & (peaks < np.finfo(np.float16).tiny)).any():
            return None
    return result


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Return values in a narrower type, None if one of them is not finite there."""
    with np.errstate(all="ignore"):
        result = np.asarray(values, dtype)
    return result if np.isfinite(result).all() else None


def replaceable(graph: gs.Graph, weight: gs.Tensor) -> bool:
    """Whether other weights may come instead of these without making the file grow."""
    maker = match.producer(weight)
    if maker is not None and not match.here(graph, maker):
        return False  # a Constant node of an outer graph, which nobody sweeps
    values = match.constant(weight)
    alone = len(weight.outputs) == 1 and not match.fetched(weight)
    return alone or (values is not None and values.nbytes <= SHARED)

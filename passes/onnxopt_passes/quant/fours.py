"""Channels of zeros in front of convolutions of images, so that they have the direct kernel.

    Conv(x, w) = Conv(Pad(x), Pad(w))       zeros on the axis of input channels

onnxruntime computes a Conv of one group on integers directly (MlasConvSym) if it has a multiple of
4 input channels, and 16 outputs or more, a multiple of 8 of them on every CPU. What has not is
copied into columns, multiplied, and requantized in a step of its own, which takes twice the time;
and an image has 3 channels, a spectrogram one.

The Pad works on integers, and its value is their zero point, which stands for 0: results are the
same, bit for bit. It is put only behind a QuantizeLinear, where channels are still planes and the
Pad is one copy. Behind an integer Conv they come last, and padding them costs what it saves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt_passes.quant import units

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

INPUTS = 4
"""Input channels that the kernel takes at a time."""

OUTPUTS = 8
"""Output channels, at a time."""

LEAST = 16
"""Output channels, at least."""


def missing(tensor: gs.Tensor) -> int:
    """Return how many channels of zeros a tensor is given, 0 if the Convs that read it need none.

    Args:
        tensor: What units read, of a float model.
    """
    if _from_unit(tensor):
        return 0
    convs = [n for n in tensor.outputs if match.is_op(n, "Conv") and n.inputs[0] is tensor]
    lacking = [_lacks(node) for node in convs]
    return min(lacking, default=0)


def _lacks(node: gs.Node) -> int:
    """Return how many input channels a Conv lacks; 0 if the direct kernel takes it in no case."""
    weight = match.constant(node.inputs[1])
    if weight is None or match.attribute(node, "group", 1) != 1:
        return 0
    outputs, inputs = weight.shape[:2]
    return -inputs % INPUTS if outputs >= LEAST and outputs % OUTPUTS == 0 else 0


def padded(values: np.ndarray, axis: int, more: int) -> np.ndarray:
    """Return values with so many zeros behind them along an axis."""
    width = [(0, 0)] * values.ndim
    width[axis] = 0, more
    return np.pad(values, width)


def _from_unit(tensor: gs.Tensor) -> bool:
    """Whether a unit may make a tensor in integers: those that move have them from above only."""
    node = match.producer(tensor)
    while node is not None and match.is_op(node, *units.MOVED):
        node = match.producer(node.inputs[0])
    return match.is_op(node, *units.WEIGHTED, *units.COMPUTED)

"""What a layer takes at any widths, as timed on this machine: time is not proportional to MACs.

A 3x3 convolution of 64 channels at 48 takes nine tenths of its time, and at 32 six tenths; one of
16 channels takes as long at 12. So each kind of layer of a model is timed by itself, on an input of
the size that it has there, with shares of its weight's two axes left; between them the time is
interpolated, linearly along both. Copies into and out of onnxruntime's blocked layout are not
counted: inside a model neighbours share them. Measured once for a kind of layer, a CPU and a
version of onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from onnxopt import profile, verdicts
from onnxopt.model import Exported
from onnxopt.runtime import Settings
from onnxopt.statistics.im2col import ConvLinear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxopt.statistics import Linear

SHARES = (0.25, 0.5, 0.75, 1.0)
"""What is left of an axis where a layer is timed, about: in whole steps of its widths."""

REORDERED = "Reorder"
"""How kernels that only change the layout begin."""


@dataclass(frozen=True)
class Surface:
    """Seconds of a layer over what is left of its weight's axes 0 and 1.

    Attributes:
        left: Of each axis the shares that were timed, ascending from 0 to 1.
        seconds: (shares of axis 0, shares of axis 1).
    """

    left: tuple[tuple[float, ...], tuple[float, ...]]
    seconds: np.ndarray

    @property
    def whole(self) -> float:
        """Seconds at full width."""
        return float(self.seconds[-1, -1])

    def at(self, first: Any, second: Any) -> np.ndarray:
        """Return the seconds at shares of both axes, which broadcast; 0 where one is 0."""
        first, second = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))
        (i, a), (j, b) = (_place(x, y) for x, y in zip((first, second), self.left, strict=True))
        s = self.seconds
        low = s[i, j] * (1 - b) + s[i, j + 1] * b
        high = s[i + 1, j] * (1 - b) + s[i + 1, j + 1] * b
        return np.where((first > 0) & (second > 0), low * (1 - a) + high * a, 0.0)

    def along(self, axes: Sequence[int]) -> Callable[..., Any]:
        """Return the seconds as a function of the shares of some axes, the other being whole."""

        def found(*left: Any) -> np.ndarray:
            shares = dict(zip(axes, left, strict=True))
            return self.at(shares.get(0, 1.0), shares.get(1, 1.0))

        return found


def _place(share: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval that a share is in, and how far in."""
    i = np.clip(np.searchsorted(shares, share) - 1, 0, len(shares) - 2)
    low, high = np.take(shares, i), np.take(shares, i + 1)
    return i, (share - low) / (high - low)


def timed(layer: Linear, shape: Sequence[int], step: int, threads: int = 1) -> Surface:
    """Time a layer at several widths, unless one of its kind has been.

    Args:
        layer: Its weights' values do not matter.
        shape: Of what it reads.
        step: Widths are multiples of it.
        threads: Threads of onnxruntime.

    Raises:
        CannotRun: onnxruntime cannot run it by itself.
    """
    kind = _Kind(layer, tuple(shape), threads)
    first, second = (_widths(n, step) for n in layer.weight.shape[:2])
    if kind.depthwise:
        second = [1]
    key = verdicts.key("seconds of a layer", kind.text, first, second)
    known = verdicts.recall(key)
    if known is None:
        known = kind.seconds(first, second)
        verdicts.remember(key, known)
    seconds = _from_nothing(_from_nothing(np.array(known), first).T, second).T
    a, b = ((0.0, *(w / widths[-1] for w in widths)) for widths in (first, second))
    return Surface((a, b), seconds)


def _widths(size: int, step: int) -> list[int]:
    """Return the widths of an axis that are timed, ascending."""
    step = step if size >= 2 * step else 1
    return sorted({max(round(share * size / step), 1) * step for share in SHARES} | {size})


def _from_nothing(seconds: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Return times along axis 0 with one for width 0 in front: the first slope goes on."""
    if len(widths) == 1:
        return np.stack([np.zeros_like(seconds[0]), seconds[0]])
    slope = (seconds[1] - seconds[0]) / (widths[1] - widths[0])
    start = np.clip(seconds[0] - slope * widths[0], 0, seconds[0])
    return np.concatenate([start[None], seconds])


@dataclass(frozen=True)
class _Kind:
    """A layer as it is timed."""

    layer: Linear
    shape: tuple[int, ...]
    threads: int

    @property
    def depthwise(self) -> bool:
        """Whether it has a group a channel: their number goes with the width."""
        return (
            isinstance(self.layer, ConvLinear) and self.layer.groups == self.layer.weight.shape[0]
        )

    @property
    def text(self) -> str:
        """What tells it from others."""
        node, weight = self.layer.node, self.layer.weight
        attributes = sorted((k, str(v)) for k, v in node.attrs.items())
        ends = (weight.shape, str(weight.dtype), self.layer.bias is not None)
        return str((node.op, attributes, *ends, self.shape, self.threads))

    def seconds(self, first: Sequence[int], second: Sequence[int]) -> list[list[float]]:
        """Return the times at all pairs of widths of the weight's axes."""
        found = {}
        pairs = [(a, b) for a in first for b in second]
        for width in sorted({self._read(*pair) for pair in pairs}):
            some = [pair for pair in pairs if self._read(*pair) == width]
            feed = {"x": np.ones(self._input(width), self.layer.weight.dtype)}
            settings = Settings(optimize=True, threads=self.threads)
            kernels = profile.measure([self._model(*pair) for pair in some], feed, settings)
            for pair, ran in zip(some, kernels, strict=True):
                found[pair] = sum(k.seconds for k in ran if not k.op.startswith(REORDERED))
        return [[found[a, b] for b in second] for a in first]

    def _read(self, first: int, second: int) -> int:
        """Return how many channels it reads."""
        if isinstance(self.layer, ConvLinear):
            return first if self.depthwise else second * self.layer.groups
        return (first, second)[self.layer.input_axis]

    def _input(self, width: int) -> tuple[int, ...]:
        shape = list(self.shape)
        shape[1 if isinstance(self.layer, ConvLinear) else -1] = width
        return tuple(shape)

    def _model(self, first: int, second: int) -> Exported:
        layer = self.layer
        dtype = layer.weight.dtype
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        size = (first, second, *layer.weight.shape[2:])
        weights = {"w": np.full(size, 1e-3, dtype)}
        attributes = dict(layer.node.attrs)
        if self.depthwise:
            attributes["group"] = first
        if len(layer.node.inputs) > 2 and layer.bias is not None:
            weights["b"] = np.zeros(size[layer.output_axis], dtype)
        node = helper.make_node(layer.node.op, ["x", *weights], ["y"], **attributes)
        shape = self._input(self._read(first, second))
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(values, name) for name, values in weights.items()],
        )
        opset = [helper.make_opsetid("", 17)]
        return Exported(helper.make_model(graph, opset_imports=opset, ir_version=8), {})

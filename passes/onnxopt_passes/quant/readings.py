"""What layers read on calibration samples: first and second moments, streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.statistics import Moments, Tap, ranges
from onnxopt_passes.quant import scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt.statistics import Linear, Statistics
    from onnxopt_passes.quant.scheme import Params

WIDEST = 2304
"""Columns of a layer's matrix beyond which it is not looked at: H would take more than 42 MB."""

ROWS = 32
"""Rows of a layer that are read of one sample, at least."""

ENOUGH = 8
"""Rows that are wanted in all, for each input of a layer."""

ELEMENTS = 1 << 23
"""Elements of all matrices, and of all that layers read of a sample, that one pass may hold; more
layers take more passes."""


@dataclass(frozen=True)
class Reading:
    """What one layer reads.

    Attributes:
        layer: The layer.
        moments: Of the rows that it reads, rounded where its input is quantized.
        mean: Mean of the same rows in float, (groups, inputs).
    """

    layer: Linear
    moments: Statistics
    mean: np.ndarray

    def gram(self, biased: bool) -> np.ndarray:
        """Return H: about the mean where a bias makes up for the mean of the error."""
        return self.moments.xx if biased else self.moments.raw().xx

    def offsets(self, rounded: np.ndarray) -> np.ndarray:
        """Return what a bias has to make up for: mean of W x less that of rounded W, rounded x.

        Args:
            rounded: The rounded weight as `layer.arranged` has it, (groups, outputs, inputs).

        Returns:
            float64, one an output of the whole layer.
        """
        weight = self.layer.arranged(self.layer.weight.values.astype(np.float64))
        wanted = np.einsum("goi,gi->go", weight, self.mean)
        found = np.einsum("goi,gi->go", rounded, self.moments.x)
        return np.asarray(self.layer.factor * (wanted - found).reshape(-1))


def read(
    model: Model,
    layers: Sequence[Linear],
    samples: Samples,
    settings: Settings,
    quantized: Mapping[str, Params] | None = None,
    seed: int = 0,
) -> dict[int, Reading]:
    """Return what layers read, by the ids of their weights.

    Layers that are too wide, or that read values that are not finite, are not in it.

    Args:
        model: The float model.
        layers: Its layers.
        samples: What to run.
        settings: How to load it.
        quantized: Schemes of activations that will be rounded, by tensor name.
        seed: Draws the rows.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    match.stamp(model.graph)
    found: dict[int, Reading] = {}
    count = samples.count()
    computed = [layer for layer in layers if match.constant(layer.source) is None]
    able = [layer for layer in computed if layer.shape[2] <= WIDEST]
    first = next(iter(samples), None)
    if not able or first is None:
        return {}
    names = list(dict.fromkeys(layer.source.name for layer in able))
    sizes = ranges.sizes(model, names, first.feed, settings)
    for part in _parts(able, sizes):
        sums = [
            _Sums(layer, (quantized or {}).get(layer.source.name), count, settings.threads)
            for layer in part
        ]
        tap = Tap(model, [one.layer.source for one in sums], settings)
        for number, values in enumerate(tap.over(samples)):
            for i, (one, value) in enumerate(zip(sums, values, strict=True)):
                one.add(value, (seed, i, number))
        for one in sums:
            reading = one.reading()
            if reading is not None:
                found[id(one.layer.weight)] = reading
    return found


def _parts(layers: Sequence[Linear], sizes: Mapping[str, int]) -> Iterator[list[Linear]]:
    """Yield the layers in parts whose matrices and inputs fit into memory together."""
    part: list[Linear] = []
    room = ELEMENTS
    for layer in layers:
        groups, _, inputs = layer.shape
        size = groups * inputs * inputs + sizes[layer.source.name]
        if part and size > room:
            yield part
            part, room = [], ELEMENTS
        part.append(layer)
        room -= size
    if part:
        yield part


class _Sums:
    """Sums of one layer."""

    def __init__(self, layer: Linear, params: Params | None, count: int, threads: int) -> None:
        self.layer, self._params = layer, params
        groups, _, inputs = layer.shape
        self._moments = Moments(groups, inputs, threads=threads)
        self._total = np.zeros((groups, inputs))
        self._count = 0
        self._most = max(ROWS, -(-ENOUGH * inputs // max(count, 1)))

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Add rows of one sample."""
        rows = self.layer.rows(value, self.layer.pick(value.shape, self._most, seed))
        self._total += rows.sum(1, dtype=np.float64)
        self._count += rows.shape[1]
        self._moments.add(rows if self._params is None else scheme.rounded(rows, self._params))

    def reading(self) -> Reading | None:
        """Return what was found, None where there is nothing, or values were not finite."""
        try:
            moments = self._moments.statistics()
        except ValueError:
            return None
        return Reading(self.layer, moments, self._total / self._count)

"""What layers read on calibration samples: first and second moments, streamed.

Memory is bounded by a share of the model's own (`staged`); matrices that are done wait on disk. The
columns of a wide layer are seen in parts, as if those of different parts were not correlated: n
parts have H of a size of inputs^2 / n.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.spool import Spool
from onnxopt.statistics import Moments
from onnxopt.statistics.grams import add_outer
from onnxopt_passes.quant import scheme, staged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt.statistics import Linear
    from onnxopt_passes.quant.scheme import Params

WIDEST = 2304
"""Columns of a layer's matrix beyond which they are seen in parts: H would take more than 42 MB."""

ROWS = 32
"""Rows of a layer that are read of one sample, at least."""

ENOUGH = 8
"""Rows that are wanted in all, for each input of a layer."""


def parts(layer: Linear) -> int:
    """Return in how many equal parts the columns of a layer are seen; each has whole channels."""
    inputs = layer.shape[2]
    channels = inputs // layer.taps
    able = (n for n in range(1, channels) if channels % n == 0)
    return next((n for n in able if inputs**2 <= n * WIDEST**2), channels)


def split(rows: np.ndarray, count: int) -> np.ndarray:
    """Return (groups, rows, inputs) as (groups * count, rows, inputs / count)."""
    groups, length, _ = rows.shape
    parted = rows.reshape(groups, length, count, -1).transpose(0, 2, 1, 3)
    return np.asarray(parted.reshape(groups * count, length, -1))


class Reading:
    """What one layer reads.

    Args:
        layer: The layer.
        held: Holds the covariances of rows, of all layers that were read.
        place: Which of them is its own.
        mean: Mean of the rows that it reads, rounded where its input is quantized, (groups,
            inputs).
        floats: Mean of the same rows in float.
    """

    def __init__(
        self, layer: Linear, held: Spool, place: int, mean: np.ndarray, floats: np.ndarray
    ) -> None:
        self.layer, self.mean, self.floats = layer, mean, floats
        self._held, self._place = held, place

    def grams(self, biased: bool) -> list[tuple[slice, np.ndarray]]:
        """Return H of each part of the columns, about the mean where a bias makes up for it.

        Returns:
            Columns, and float64 (groups, columns, columns), read from disk and the caller's own.
        """
        found: np.ndarray = self._held[self._place]
        groups, inputs = self.mean.shape
        count = len(found) // groups
        if not biased:
            mean = split(self.mean[:, None], count)[:, 0]
            add_outer(found, mean, mean)
        width = inputs // count
        places = [slice(i * width, (i + 1) * width) for i in range(count)]
        return [(place, found[i::count]) for i, place in enumerate(places)]

    def offsets(self, rounded: np.ndarray, outputs: slice = slice(None)) -> np.ndarray:
        """Return what a bias has to make up for: mean of W x less that of rounded W, rounded x.

        Args:
            rounded: The rounded weight as `layer.arranged` has it, (groups, outputs, inputs).
            outputs: Which outputs of each group it has.

        Returns:
            float64, (groups, outputs).
        """
        weight = self.layer.arranged(self.layer.weight.values)[:, outputs].astype(np.float64)
        wanted = np.einsum("goi,gi->go", weight, self.floats)
        found = np.einsum("goi,gi->go", rounded, self.mean)
        return np.asarray(self.layer.factor * (wanted - found))


def read(
    model: Model,
    layers: Sequence[Linear],
    samples: Samples,
    settings: Settings,
    quantized: Mapping[str, Params] | None = None,
    seed: int = 0,
) -> dict[int, Reading]:
    """Return what layers read, by the ids of their weights.

    Layers that read values that are not finite are not in it.

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
    able = [x for x in layers if match.constant(x.source) is None]
    count, held = samples.count(), Spool()
    readers = []
    for some in staged.alike(model, able):
        some_parts = parts(some[0])
        groups, inputs = some[0].shape[0] * some_parts, some[0].shape[2] // some_parts
        params = (quantized or {}).get(some[0].source.name)
        make = partial(_Sums, some[0], params, count, settings.threads)
        readers.append(staged.Reader(some, Moments.size(groups, inputs), make))
    found: dict[int, Reading] = {}
    for reader, sums in staged.run(model, readers, samples, settings, seed):
        found |= sums.readings(reader.layers, held)
    return found


class _Sums:
    """Sums of one layer's rows."""

    def __init__(self, layer: Linear, params: Params | None, count: int, threads: int) -> None:
        self._layer, self._params = layer, params
        groups, _, inputs = layer.shape
        self._parts = parts(layer)
        width = inputs // self._parts
        self._moments = Moments(groups * self._parts, width, threads=threads)
        self._total = np.zeros((groups, inputs))
        self._count = 0
        self._most = max(ROWS, -(-ENOUGH * width // max(count, 1)))

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Add rows of one sample."""
        rows = self._layer.rows(value, self._layer.pick(value.shape, self._most, seed))
        self._total += rows.sum(1, dtype=np.float64)
        self._count += rows.shape[1]
        rows = rows if self._params is None else scheme.rounded(rows, self._params)
        self._moments.add(split(rows, self._parts))

    def readings(self, layers: Sequence[Linear], held: Spool) -> dict[int, Reading]:
        """Return what was found; nothing where there is nothing, or values were not finite.

        Args:
            layers: All that read these rows.
            held: Keeps the covariances.
        """
        try:
            moments = self._moments.statistics()
        except ValueError:
            return {}
        place = len(held)
        held.append(moments.xx)
        mean, floats = moments.x.reshape(self._total.shape), self._total / self._count
        return {id(x.weight): Reading(x, held, place, mean, floats) for x in layers}

"""What layers read on calibration samples: first and second moments, streamed.

Memory is bounded by a share of the model's own (`staged`); matrices that are done wait on disk.
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
"""Columns of a layer's matrix beyond which it is not looked at: H would take more than 42 MB."""

ROWS = 32
"""Rows of a layer that are read of one sample, at least."""

ENOUGH = 8
"""Rows that are wanted in all, for each input of a layer."""


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

    def gram(self, biased: bool) -> np.ndarray:
        """Return H: about the mean where a bias makes up for the mean of the error.

        Returns:
            float64, (groups, inputs, inputs), read from disk and the caller's own.
        """
        found: np.ndarray = self._held[self._place]
        if not biased:
            add_outer(found, self.mean, self.mean)
        return found

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
    able = [x for x in layers if match.constant(x.source) is None and x.shape[2] <= WIDEST]
    count, held = samples.count(), Spool()
    readers = []
    for some in staged.alike(model, able):
        groups, _, inputs = some[0].shape
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
        self._moments = Moments(groups, inputs, threads=threads)
        self._total = np.zeros((groups, inputs))
        self._count = 0
        self._most = max(ROWS, -(-ENOUGH * inputs // max(count, 1)))

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Add rows of one sample."""
        rows = self._layer.rows(value, self._layer.pick(value.shape, self._most, seed))
        self._total += rows.sum(1, dtype=np.float64)
        self._count += rows.shape[1]
        self._moments.add(rows if self._params is None else scheme.rounded(rows, self._params))

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
        floats = self._total / self._count
        return {id(x.weight): Reading(x, held, place, moments.x, floats) for x in layers}

"""What layers read on calibration samples: first and second moments, streamed.

Memory is bounded by a share of the model's own, whatever the number of samples and layers: the
model is run in stages, each with as many layers as fit, and matrices that are done wait on disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model.layout import in_order
from onnxopt.spool import Spool
from onnxopt.statistics import Moments, Stages, ranges
from onnxopt.statistics.grams import add_outer
from onnxopt_passes.quant import scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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

ROOM = 1 << 22
"""Bytes of matrices, and of what layers read, that a stage may hold, at least."""

SHARE = 0.25
"""The same as a part of the bytes of the model."""


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
    computed = [layer for layer in layers if match.constant(layer.source) is None]
    able = _alike(model, [layer for layer in computed if layer.shape[2] <= WIDEST])
    first = next(iter(samples), None)
    if not able or first is None:
        return {}
    names = list(dict.fromkeys(some[0].source.name for some in able))
    sizes = ranges.sizes(model, names, first.feed, replace(settings, optimize=False))
    parts = list(_parts(able, sizes, max(ROOM, int(SHARE * model.export().nbytes))))
    wanted = [[some[0].source for some in part] for part in parts]
    stages = Stages(model, wanted, samples.feeds(), settings)
    found: dict[int, Reading] = {}
    held, count, place = Spool(), samples.count(), 0
    for part in parts:
        sums = [
            _Sums(some, (quantized or {}).get(some[0].source.name), count, settings.threads)
            for some in part
        ]
        for number, values in enumerate(stages.run()):
            for i, one in enumerate(sums, place):
                one.add(values.pop(0), (seed, i, number))  # gone before the next sample is run
        place += len(part)
        while sums:
            found |= sums.pop(0).readings(held)
    return found


def _alike(model: Model, layers: Sequence[Linear]) -> list[list[Linear]]:
    """Return layers in the order in which they are computed, those together that read the same."""
    order = in_order(model.graph)
    place = {id(t): i for i, node in enumerate(order) for t in node.outputs}
    found: dict[object, list[Linear]] = {}
    for layer in sorted(layers, key=lambda x: place.get(id(x.source), -1)):
        found.setdefault((id(layer.source), layer.patches), []).append(layer)
    return list(found.values())


def _parts(
    layers: Sequence[list[Linear]], sizes: Mapping[str, int], most: int
) -> Iterator[list[list[Linear]]]:
    """Yield the layers in parts whose matrices and inputs fit into so many bytes together."""
    part: list[list[Linear]] = []
    seen: set[str] = set()
    room = most
    for some in layers:
        groups, _, inputs = some[0].shape
        name = some[0].source.name
        size = Moments.size(groups, inputs) + (0 if name in seen else 4 * sizes[name])
        if part and size > room:
            yield part
            part, room, seen = [], most, set()
        part.append(some)
        room -= size
        seen.add(name)
    if part:
        yield part


class _Sums:
    """Sums of layers that read the same rows."""

    def __init__(
        self, layers: Sequence[Linear], params: Params | None, count: int, threads: int
    ) -> None:
        self._layers, self._params = layers, params
        groups, _, inputs = layers[0].shape
        self._moments = Moments(groups, inputs, threads=threads)
        self._total = np.zeros((groups, inputs))
        self._count = 0
        self._most = max(ROWS, -(-ENOUGH * inputs // max(count, 1)))

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Add rows of one sample."""
        layer = self._layers[0]
        rows = layer.rows(value, layer.pick(value.shape, self._most, seed))
        self._total += rows.sum(1, dtype=np.float64)
        self._count += rows.shape[1]
        self._moments.add(rows if self._params is None else scheme.rounded(rows, self._params))

    def readings(self, held: Spool) -> dict[int, Reading]:
        """Return what was found; nothing where there is nothing, or values were not finite."""
        try:
            moments = self._moments.statistics()
        except ValueError:
            return {}
        place = len(held)
        held.append(moments.xx)
        floats = self._total / self._count
        return {
            id(layer.weight): Reading(layer, held, place, moments.x, floats)
            for layer in self._layers
        }

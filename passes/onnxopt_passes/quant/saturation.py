"""Where sums of products would saturate on CPUs without VNNI, and what to narrow.

Such kernels add the products of two neighbours along K in int16 (vpmaddubsw):

    a[2k] w[2k] + a[2k+1] w[2k+1]       with a in 0..255, w in -127..127

which leaves int16 beyond 32767. Weights within +-64 never do, but cost a bit, so only output
channels that do leave it are narrowed, and only as far as they need. Of a Conv, K is kernel taps
major, input channels of the group minor, as onnxruntime packs it, channels of zeros included that
a Conv of an image is given (`fours`); convolutions of one input and one output channel a group have
a kernel without such pairs.

First a bound: with the largest integer of each input channel on the samples, A, a pair's sum is at
most A w+ + A' w'+, and at least the same of the negative parts. What the bound does not clear is
emulated: for each pair along K and each value of its first integer, the largest second one
that came with it on rows of samples. The largest sum of a pair under any weights follows exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.statistics import extremes, linear
from onnxopt_passes.quant import fours, rounding, scheme, staged, static

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt.statistics import Linear
    from onnxopt_passes.quant.static import Recipe
    from onnxopt_passes.quant.units import Unit

LIMIT = 32767
"""The largest int16."""

LIMITS = (127, 112, 96, 80, 64)
"""Magnitudes that a channel's integers may have: the first is all of int8, and the last never
saturates, as 2 * 255 * 64 < 2^15."""

MARGIN = 1.05
"""How much larger than on the samples an integer may become."""

LEVELS = 256
"""Values of uint8."""

ROWS = 1 << 16
"""Rows of a layer that are emulated, of all samples together."""

LEAST = 32
"""Rows of one sample, at least."""

AT_A_TIME = 1 << 12
"""Pairs whose sums are looked at together."""


@dataclass(frozen=True)
class Met:
    """What a layer's integer inputs reach on samples; K as kernels order it.

    Attributes:
        tops: The largest integer at each place along K, int64 of shape (groups, K).
        pairs: The largest second integer of each pair for each value of the first, -1 where it
            never came, int16 of shape (groups, ceil(K / 2), 256); None where it was not needed.
    """

    tops: np.ndarray
    pairs: np.ndarray | None = None

    def overflows(self, rows: np.ndarray) -> np.ndarray:
        """Return which outputs leave int16 with these weights.

        Args:
            rows: Integers, (groups, outputs, K).

        Returns:
            bool, (groups, outputs).
        """
        bad = np.zeros(rows.shape[:2], bool)
        for part in rounding.runs(rows.shape):
            some = np.asarray(rows[:, part], np.int32)
            for one in (np.maximum(some, 0), np.maximum(-some, 0)):
                bad[:, part] |= self._beyond(one)
        return bad

    def _beyond(self, weights: np.ndarray) -> np.ndarray:
        """The same for weights of one sign."""
        one, other = _first_and_second(weights * self.tops[:, None])
        groups, outputs, places = np.nonzero(one + other > LIMIT)
        found = np.zeros(weights.shape[:2], bool)
        first, second = _first_and_second(weights)
        for start in range(0, len(places), AT_A_TIME):
            g, o, p = (i[start : start + AT_A_TIME] for i in (groups, outputs, places))
            hit = np.ones(len(p), bool)
            if self.pairs is not None:
                seconds = self.pairs[g, p]
                sums = _grown(np.arange(LEVELS)) * first[g, o, p, None]
                sums += _grown(seconds) * second[g, o, p, None]
                hit = np.where(seconds < 0, 0, sums).max(1) > LIMIT
            found[g[hit], o[hit]] = True
        return found


def _grown(integers: np.ndarray) -> np.ndarray:
    """Return integers as large as they may become."""
    return np.minimum(integers * MARGIN, LEVELS - 1)


def _first_and_second(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second of each pair along the last axis; a zero completes it."""
    if values.shape[-1] % 2:
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
    return values[..., 0::2], values[..., 1::2]


def met(
    model: Model,
    found: Sequence[Unit],
    recipe: Recipe,
    samples: Samples,
    settings: Settings,
    seed: int = 0,
) -> dict[str, Met]:
    """Return what the inputs of units with a weight reach, by name; those that cannot saturate out.

    Args:
        model: The float model.
        found: Its units.
        recipe: Ranges of their inputs, to uint8.
        samples: What to run.
        settings: How to load it.
        seed: Draws rows.

    Raises:
        CannotRun: onnxruntime cannot run it.
    """
    able = {u.name: u for u in found if u.weighted and u.inputs[0].name in recipe.ranges}
    able = {name: u for name, u in able.items() if not _depthwise(u)}
    params = {
        u.inputs[0].name: scheme.affine(*recipe.ranges[u.inputs[0].name], recipe.activations)
        for u in able.values()
    }
    axes = {u.inputs[0].name: 1 if u.node.op == "Conv" else -1 for u in able.values()}
    highest = extremes.largest(model, axes, samples, settings) if axes else {}
    known = {}
    for name, unit in able.items():
        source = unit.inputs[0].name
        values = (MARGIN * np.maximum(highest[source], 0)).astype(np.float32)
        integers = scheme.quantize(values, params[source]).astype(np.int64)
        known[name] = Met(_along_k(unit, integers))
    open_ = [u for name, u in able.items() if (limits(u, known[name]) < LIMITS[0]).any()]
    layers = {id(x.node): x for x in linear.find_all(model.graph)}
    wanted = {u.name: layers[id(u.node)] for u in open_ if id(u.node) in layers}
    deployed = replace(settings, optimize=True)
    pairs = emulated(model, list(wanted.values()), samples, deployed, seed, params)
    return known | {
        name: replace(known[name], pairs=pairs[id(layer.weight)]) for name, layer in wanted.items()
    }


def _depthwise(unit: Unit) -> bool:
    weight = unit.node.inputs[1].shape  # type: ignore[attr-defined]
    groups = match.attribute(unit.node, "group", 1)
    return unit.node.op == "Conv" and weight[1] == 1 and weight[0] == groups


def _along_k(unit: Unit, integers: np.ndarray) -> np.ndarray:
    """Return a number of each input channel at each place along K, (groups, K)."""
    if unit.node.op != "Conv":
        return integers[None]
    weight = unit.node.inputs[1].shape  # type: ignore[attr-defined]
    taps = int(np.prod(weight[2:]))
    channels = integers.reshape(-1, weight[1])
    return np.tile(fours.padded(channels, 1, fours.missing(unit.inputs[0])), taps)


def emulated(
    model: Model,
    layers: Sequence[Linear],
    samples: Samples,
    settings: Settings,
    seed: int,
    params: Mapping[str, scheme.Params],
) -> dict[int, np.ndarray]:
    """Return `Met.pairs` of layers by the ids of their weights.

    Args:
        model: The float model.
        layers: Its layers.
        samples: What to run.
        settings: How to load it.
        seed: Draws rows.
        params: Schemes of what they read, by tensor name; what is missing is quantized as
            DynamicQuantizeLinear does it, each time by its own range.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    most = max(LEAST, -(-ROWS // max(samples.count(), 1)))
    readers = []
    for some in staged.alike(model, layers):
        make = partial(_Pairs, some[0], params.get(some[0].source.name), most)
        size = int(np.prod(_pairs_of(some[0]))) * LEVELS * np.dtype(np.int16).itemsize
        readers.append(staged.Reader(some, size, make))
    return {
        id(layer.weight): sums.found
        for reader, sums in staged.run(model, readers, samples, settings, seed)
        for layer in reader.layers
    }


def _pairs_of(layer: Linear) -> tuple[int, int]:
    """Return the groups of a layer, and the pairs along K of each."""
    groups, _, inputs = layer.shape
    return groups, -(-(inputs + fours.missing(layer.source) * layer.taps) // 2)


class _Pairs:
    """The largest second integer of each pair for each first one, of one layer."""

    def __init__(self, layer: Linear, params: scheme.Params | None, most: int) -> None:
        self._layer, self._params, self._most = layer, params, most
        self._missing = fours.missing(layer.source)
        self.found = np.full((*_pairs_of(layer), LEVELS), -1, np.int16)

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Take in rows of one sample."""
        rows = self._layer.rows(value, self._layer.pick(value.shape, self._most, seed))
        split = rows.reshape(*rows.shape[:2], -1, self._layer.taps).swapaxes(2, 3)
        split = fours.padded(split, 3, self._missing)
        params = self._params
        if params is None:
            span = float(value.min(initial=0)), float(value.max(initial=0))
            params = scheme.affine(*span, scheme.GRIDS["uint8"])
        integers = scheme.quantize(split, params).reshape(*rows.shape[:2], -1).astype(np.int64)
        first, second = _first_and_second(integers)
        groups, _, pairs = first.shape
        place = np.arange(groups * pairs).reshape(groups, 1, pairs) * LEVELS + first
        flat = self.found.reshape(-1)
        np.maximum.at(flat, place.reshape(-1), second.reshape(-1).astype(np.int16))


def limits(unit: Unit, reached: Met) -> np.ndarray:
    """Return the largest magnitude that integers of each output channel may have, (channels,)."""
    weight = match.constant(unit.node.inputs[1])
    assert weight is not None  # noqa: S101  # a guard of the unit
    return narrowed(weight, static.axis(unit.node), partial(overflows, unit, reached=reached))


def narrowed(
    weight: np.ndarray, axis: int, overflow: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the largest magnitude that integers of each channel may have.

    Args:
        weight: Floats.
        axis: The axis of its channels.
        overflow: Tells of integers which channels leave int16.

    Returns:
        float64, (channels,): the largest of `LIMITS` with which no sum of a pair leaves int16.
    """
    params = scheme.fit(weight, scheme.GRIDS["int8"], True, axis)
    found = np.full(params.scale.shape, float(LIMITS[0]))
    for limit in LIMITS[1:]:
        scale = (params.scale * (LIMITS[0] / found)).astype(np.float32)
        bad = overflow(scheme.quantize(weight, replace(params, scale=scale)))
        found[bad] = limit
    return found


def overflows(unit: Unit, integers: np.ndarray, reached: Met) -> np.ndarray:
    """Return which output channels of a unit leave int16, bool of shape (channels,).

    Args:
        unit: The unit.
        integers: Its weight.
        reached: What its inputs reach.
    """
    rows = np.moveaxis(integers, static.axis(unit.node), 0)
    if unit.node.op == "Conv":
        rows = fours.padded(np.moveaxis(rows, 1, -1), -1, fours.missing(unit.inputs[0]))
    groups = len(reached.tops)
    return reached.overflows(rows.reshape(groups, len(rows) // groups, -1)).reshape(-1)

"""A weight's integers and scales, refined on what its layer reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.quant import rounding, scheme
from onnxopt_passes.quant.rounding import Steps

if TYPE_CHECKING:
    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.readings import Reading
    from onnxopt_passes.quant.scheme import Params

FEW_BITS = 6
"""Bits up to which errors are passed on from column to column; with more, there are few to pass."""


@dataclass(frozen=True)
class Refined:
    """A weight, and what its layer's bias may make up for.

    Attributes:
        coded: The weight's integers and scales.
        offsets: The mean of what the layer computes less than in float, one an output.
    """

    coded: Coded
    offsets: np.ndarray


def unrefined(coded: Coded, reading: Reading) -> Refined:
    """Return a weight as it is, and what a bias has to make up for."""
    values = reading.layer.arranged(coded.values())
    parts = [reading.offsets(values[:, part], part) for part in rounding.runs(values.shape)]
    return Refined(coded, np.concatenate(parts, axis=1).reshape(-1))


def refine(coded: Coded, reading: Reading, biased: bool, most: np.ndarray | None = None) -> Refined:
    """Return a weight with scales and integers that suit what its layer reads.

    Args:
        coded: The weight, rounded to nearest.
        reading: What its layer reads.
        biased: Whether a bias will make up for the mean of the error.
        most: Largest magnitudes of integers, of the scales' shape; None for all of the grid.

    Returns:
        The weight, with the integers that it came with if nothing was gained.
    """
    layer = reading.layer
    weight = layer.arranged(layer.weight.values)
    parts = [(part, rounding.damped(gram)) for part, gram in reading.grams(biased)]
    steps = _steps(coded, coded.params, reading, most)
    numbers = np.arange(coded.params.scale.size).reshape(coded.params.scale.shape)
    factors = rounding.shrunk(weight, steps, _spread(numbers, coded, reading), parts)
    scale = coded.params.scale * factors.reshape(coded.params.scale.shape)
    params = replace(coded.params, scale=np.asarray(scale, np.float32))
    steps = _steps(coded, params, reading, most)
    few = coded.grid.bits <= FEW_BITS
    integers = np.empty(weight.shape, np.float32)
    for part, gram in parts:
        some, grid = weight[..., part], steps.columns(part)
        start = rounding.propagated(some, grid, gram) if few else None
        integers[..., part] = rounding.descended(some, grid, gram, start)
    restored = layer.restored(integers).reshape(coded.integers.shape)
    found = replace(coded, params=params, integers=restored.astype(coded.grid.dtype))
    before, after = (
        rounding.error(weight, layer.arranged(c.values()), parts) for c in (coded, found)
    )
    return unrefined(found if after < before else coded, reading)


def without(found: Refined, plain: Coded, bad: np.ndarray, reading: Reading) -> Refined:
    """Return a refined weight with some channels as they were before.

    Args:
        found: The refined weight; a scale a channel, or one for all.
        plain: The weight before.
        bad: Which channels, bool of shape (channels,).
        reading: What its layer reads.
    """
    if not bad.any():
        return found
    axis = plain.params.axis
    if axis is None:
        return unrefined(plain, reading)
    wide = bad.reshape([-1 if i == axis else 1 for i in range(len(plain.shape))])
    scale = np.where(bad, plain.params.scale, found.coded.params.scale)
    mixed = replace(
        found.coded,
        params=replace(plain.params, scale=scale),
        integers=np.where(wide, plain.integers, found.coded.integers),
    )
    return unrefined(mixed, reading)


def _steps(coded: Coded, params: Params, reading: Reading, most: np.ndarray | None) -> Steps:
    low, high = (np.full(params.scale.shape, float(v)) for v in scheme.limits(params))
    if most is not None:
        low, high = np.maximum(low, -most), np.minimum(high, most)
    parts = (params.scale, params.zero_point.astype(np.float64), low, high)
    return Steps(*(_spread(part, coded, reading) for part in parts))


def _spread(part: np.ndarray, coded: Coded, reading: Reading) -> np.ndarray:
    """Return a number of each scale for each element of the layer's matrix."""
    seen = coded.view or coded.shape
    kind = np.int64 if part.dtype.kind == "i" else np.float64
    wide = scheme.spread(part.astype(kind), seen, coded.params.axis, coded.params.block)
    return reading.layer.arranged(wide.reshape(coded.shape))

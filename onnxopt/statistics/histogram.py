"""One asymmetric histogram of all values a tensor takes, and the ranges that methods read from it.

The bins are equal and start anywhere; a value outside doubles their width, as often as needed, by
adding neighbours, so that one pass over the data suffices and nothing is lost. Zeros are counted
apart: they are on every grid, cost nothing, and after a Relu are most of the tensor.

    minmax      the least and the largest value
    average     the means over samples of their least and largest value
    percentile  the values that 0.001 % of the elements lie beyond, on either side
    mse         the range of least squared error, by the middles of the bins where they are finer
                than the grid, else step^2 / 12 inside (Banner et al. 2019, arXiv:1810.05723)
    entropy     the range whose rounded histogram has the least Kullback-Leibler divergence from
                the clipped one (Migacz 2017, TensorRT's calibration)
    auto        that of the five with the least squared error
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""Elementwise."""

BINS = 2048

TAIL = 1e-5
"""Share of elements that `percentile` clips on each side."""

SHRINK = np.linspace(1.0, 0.1, 46)
"""Fractions of the range that `mse` and `entropy` try on each side."""


def itself(x: np.ndarray) -> np.ndarray:
    """Return the argument: errors count where they are made."""
    return x


METHODS = ("minmax", "average", "percentile", "mse", "entropy")


@dataclass
class Histogram:
    """What a tensor held on the samples so far.

    Attributes:
        low: Least value, exactly.
        high: Largest value, exactly.
        start: Lower edge of the first bin.
        width: Width of a bin; 0 before the first value other than zero.
        counts: Elements in each bin, zeros left out.
        zeros: Elements that are zero.
        averages: Sums over samples of their least and largest value, and the number of samples.
        trouble: `NaN` or `Inf` if a sample held one, with the number of the first such sample.
    """

    low: float = np.inf
    high: float = -np.inf
    start: float = 0.0
    width: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    zeros: float = 0.0
    averages: tuple[float, float, int] = (0.0, 0.0, 0)
    trouble: str = ""

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count a sample.

        Args:
            values: Its finite elements, or a fair part of them, any shape.
            low: The least of all its elements.
            high: The largest.
        """
        if values.size == 0:
            return
        values = values.reshape(-1).astype(np.float64)
        self.low, self.high = min(self.low, low), max(self.high, high)
        sums = self.averages
        self.averages = (sums[0] + low, sums[1] + high, sums[2] + 1)
        rest = values[values != 0]
        self.zeros += values.size - rest.size
        if not (rest.size or low or high):
            return
        self._reach(min(low, 0.0), max(high, 0.0))
        places = ((rest - self.start) / self.width).astype(np.int64)
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def _reach(self, low: float, high: float) -> None:
        """Double the width of the bins until they cover low..high."""
        if not self.width:
            self.start = low
            self.width = max((high - low) / BINS * (1 + 1e-9), 1e-300)
            return
        while low < self.start or high > self.start + BINS * self.width:
            pairs = self.counts.reshape(-1, 2).sum(1)
            empty = np.zeros(BINS // 2)
            downwards = low < self.start
            if downwards:
                self.start -= BINS * self.width
            self.counts = np.concatenate([empty, pairs] if downwards else [pairs, empty])
            self.width *= 2

    @property
    def centers(self) -> np.ndarray:
        """The middles of the bins."""
        return self.start + (np.arange(BINS) + 0.5) * self.width

    def span(
        self, method: str, levels: int = 256, through: Function = itself
    ) -> tuple[float, float]:
        """Return the range that a method chooses; zero is in it.

        Args:
            method: One of the module's, or `auto`.
            levels: How many numbers the grid has.
            through: An elementwise function: squared errors are those behind it.
        """
        if method == "auto":
            ranges = [self.span(m, levels, through) for m in METHODS]
            errors = [self.error(*r, levels, through) for r in ranges]
            return ranges[int(np.argmin(errors))]
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if not self.width or not np.isfinite(low + high):
            return (0.0, 0.0) if not self.width else (low, high)
        if method == "average":
            low, high = (s / self.averages[2] for s in self.averages[:2])
        elif method == "percentile":
            low, high = self._percentile(low, high)
        elif method == "mse":
            low, high = self._least(low, high, levels, through)
        elif method == "entropy":
            low, high = self._entropy(low, high, levels)
        return min(low, 0.0), max(high, 0.0)

    def error(
        self, low: float, high: float, levels: int = 256, through: Function = itself
    ) -> float:
        """Return the mean squared error that a range is expected to cause."""
        total = self.counts.sum() + self.zeros
        found = self._expected(np.asarray([low]), np.asarray([high]), levels, through)
        return float(found[0] / max(total, 1))

    def _expected(
        self, lows: np.ndarray, highs: np.ndarray, levels: int, through: Function
    ) -> np.ndarray:
        """Return the summed squared errors of some ranges, shape (ranges,)."""
        steps = np.maximum((highs - lows) / (levels - 1), 1e-300)[:, None]
        x = self.centers[None]
        shift = np.rint(-lows[:, None] / steps)
        nearest = (np.clip(np.rint(x / steps) + shift, 0, levels - 1) - shift) * steps
        inside = (x >= lows[:, None]) & (x <= highs[:, None]) & (steps < 4 * self.width)
        moved = through(x + steps / 2) - through(x - steps / 2)
        squares = np.where(inside, moved**2 / 12, (through(x) - through(nearest)) ** 2)
        found: np.ndarray = squares @ self.counts
        return found

    def _least(
        self, low: float, high: float, levels: int, through: Function
    ) -> tuple[float, float]:
        """Shrink one bound after the other to where the squared error is least."""
        bounds = [low, high]
        for side in (1, 0, 1, 0) if low < 0 < high else (0 if low < 0 else 1,):
            tried = [np.full(SHRINK.size, bounds[0]), np.full(SHRINK.size, bounds[1])]
            tried[side] = (low, high)[side] * SHRINK
            best = int(np.argmin(self._expected(tried[0], tried[1], levels, through)))
            bounds[side] = float(tried[side][best])
        return bounds[0], bounds[1]

    def _percentile(self, low: float, high: float) -> tuple[float, float]:
        counts = self.counts.copy()
        counts[int(np.clip(-self.start / self.width, 0, BINS - 1))] += self.zeros
        mass = np.cumsum(counts) / counts.sum()
        first = int(np.searchsorted(mass, TAIL, side="right"))
        last = int(np.searchsorted(mass, 1 - TAIL))
        lower, upper = self.start + first * self.width, self.start + (last + 1) * self.width
        return max(low, lower), min(high, upper)

    def _entropy(self, low: float, high: float, levels: int) -> tuple[float, float]:
        best, chosen = np.inf, (low, high)
        for share in SHRINK:
            bounds = (float(low * share), float(high * share))
            divergence = self._divergence(*bounds, levels)
            if divergence < best:
                best, chosen = divergence, bounds
        return chosen

    def _divergence(self, low: float, high: float, levels: int) -> float:
        """Return KL(clipped || rounded) over the bins inside low..high."""
        first = int(np.clip((low - self.start) / self.width, 0, BINS - 1))
        last = int(np.clip(np.ceil((high - self.start) / self.width), first + 1, BINS))
        inside = self.counts[first:last]
        clipped = inside.copy()
        clipped[0] += self.counts[:first].sum()
        clipped[-1] += self.counts[last:].sum()
        level = np.arange(last - first) * levels // (last - first)
        used = inside > 0
        mass, places = np.bincount(level, inside), np.bincount(level, used)
        rounded = np.where(used, (mass / np.maximum(places, 1))[level], 0)
        p, q = clipped / max(clipped.sum(), 1), rounded / max(rounded.sum(), 1)
        both = (p > 0) & (q > 0)
        lost = float(p[(p > 0) & (q == 0)].sum())
        return float(np.sum(p[both] * np.log(p[both] / q[both]))) + lost

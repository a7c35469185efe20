"""Conv as a matrix product.

A row of x is the patch under one output position, columns in the order of the weight, input channel
major, kernel tap minor. Each group of the Conv has its own rows and its own matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.statistics.layer import Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

SPATIAL = {"SAME_UPPER": 0, "SAME_LOWER": 1}
"""Which side of an odd padding is the larger one: the end, or the beginning."""


@dataclass(frozen=True)
class ConvLinear(Linear):
    """A Conv with any number of spatial axes.

    Attributes:
        groups: Its attribute `group`.
        strides: One a spatial axis.
        dilations: One a spatial axis.
        pads: Beginnings, then ends; None for the padding `auto`.
        auto: Its `auto_pad`.
    """

    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] | None = None
    auto: str = "NOTSET"

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return tuple(self.weight.shape[2:])

    @property
    def taps(self) -> int:  # noqa: D102
        return math.prod(self.kernel)

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        outputs, channels = self.weight.shape[:2]
        return self.groups, outputs // self.groups, channels * self.taps

    @property
    def patches(self) -> tuple[object, ...]:  # noqa: D102
        placed = (self.kernel, self.strides, self.dilations, self.pads, self.auto)
        return (*super().patches, *placed)

    def arranged(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        return values.reshape(self.groups, values.shape[0] // self.groups, -1)

    def restored(self, matrix: np.ndarray) -> np.ndarray:  # noqa: D102
        return matrix.reshape(self.weight.shape)

    def channel_axis(self, rank: int) -> int:  # noqa: D102
        return 1

    def _padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        if self.pads is not None:
            half = len(self.pads) // 2
            return list(zip(self.pads[:half], self.pads[half:], strict=True))
        if self.auto == "VALID":
            return [(0, 0)] * len(sizes)
        found = []
        for size, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            less = total // 2
            begin = total - less if SPATIAL[self.auto] else less
            found.append((begin, total - begin))
        return found

    def _spread(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial sizes of the output."""
        return tuple(
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, k, s, d in zip(
                sizes, self._padding(sizes), self.kernel, self.strides, self.dilations, strict=True
            )
        )

    def positions(self, shape: Sequence[int]) -> int:  # noqa: D102
        return shape[0] * math.prod(self._spread(shape[2:]))

    def rows(self, x: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        padding = self._padding(x.shape[2:])
        spread = self._spread(x.shape[2:])
        x = _padded(x, padding)
        sizes = x.shape[2:]
        sample, *corner = np.unravel_index(picks, (x.shape[0], *spread))
        start = [c * s for c, s in zip(corner, self.strides, strict=True)]
        taps = np.indices(self.kernel).reshape(len(sizes), -1)
        steps = [t * d for t, d in zip(taps, self.dilations, strict=True)]
        where = np.ravel_multi_index(
            [a[:, None] + b[None, :] for a, b in zip(start, steps, strict=True)], sizes
        )
        size = math.prod(sizes)
        flat = x.swapaxes(0, 1).reshape(x.shape[1], -1)  # (channels, places of all samples)
        return self._grouped(np.take(flat, where + size * sample[:, None], axis=1))

    def _grouped(self, patches: np.ndarray) -> np.ndarray:
        """Return (channels, rows, taps) as (groups, rows, channels of a group * taps)."""
        channels, rows, taps = patches.shape
        split = patches.reshape(self.groups, channels // self.groups, rows, taps)
        found = split.transpose(0, 2, 1, 3).reshape(self.groups, rows, -1)
        return np.ascontiguousarray(found, np.float32)

    def targets(self, y: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        sample, place = np.unravel_index(picks, (y.shape[0], math.prod(y.shape[2:])))
        found = y.reshape(y.shape[0], y.shape[1], -1)[sample, :, place]  # (rows, outputs)
        split = found.reshape(len(picks), self.groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(split, np.float32)


def _padded(x: np.ndarray, padding: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return x with zeros around its spatial axes; `np.pad` takes ten times as long."""
    if not any(sum(p) for p in padding):
        return x
    sizes = [size + sum(p) for size, p in zip(x.shape[2:], padding, strict=True)]
    found = np.zeros((*x.shape[:2], *sizes), x.dtype)
    inner = [slice(p[0], p[0] + s) for s, p in zip(x.shape[2:], padding, strict=True)]
    where = (slice(None), slice(None), *inner)
    found[where] = x
    return found

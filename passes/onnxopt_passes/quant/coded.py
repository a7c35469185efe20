"""Weights as integers and scales, in the layout in which a file stores them.

Blocks are runs of consecutive elements along one axis of the weight seen as (before, length,
after). Integers below 8 bits are packed into bytes in planes: of a block of n elements, byte i
holds element i in its lowest bits, element i + n/planes in the next ones, and so on, so that floor
and multiplication unpack it, which every opset has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.quant import scheme

if TYPE_CHECKING:
    from onnxopt_passes.quant.scheme import Grid, Params

LEAST_RUN = 8
"""Elements that must share a scale at least: four bytes of scale are to be worth it."""

View = tuple[int, int, int]
"""A weight's shape as (before, length, after) the axis of its blocks."""


@dataclass(frozen=True)
class Coded:
    """A weight's integers and scales.

    Attributes:
        shape: The weight's shape.
        params: The scheme; its axis is one of `view` where there are blocks, else of `shape`.
        integers: Of the grid's type, with the shape of `view` where there are blocks, else `shape`.
        view: The shape that blocks are counted in, None without blocks.
    """

    shape: tuple[int, ...]
    params: Params
    integers: np.ndarray
    view: View | None = None

    @property
    def grid(self) -> Grid:
        """The type of the integers."""
        return self.params.grid

    @property
    def planes(self) -> int:
        """How many integers a byte holds."""
        return max(8 // self.grid.bits, 1)

    @property
    def by_row(self) -> bool:
        """Whether each index of the first of two axes has its own integers and scales."""
        if len(self.shape) != 2:
            return False
        if self.view is None:
            return self.params.axis == 0
        return self.view == (*self.shape, 1)

    def values(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return the floats that it stands for, float32, of its shape; in `out` if given."""
        room = None if out is None else out.reshape(self.integers.shape)
        return scheme.dequantize(self.integers, self.params, room).reshape(self.shape)

    def stored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return what goes into the file: integers, scales, zero points (None if all are 0).

        Without blocks all broadcast to the weight's shape. With blocks they have the shape (before,
        blocks, elements, after), without `after` where it is 1; below 8 bits, `elements` is that
        of packed bytes and the zero points count from the grid's lowest number.
        """
        scale, zero = self.params.scale, self.params.zero_point.astype(np.int64)
        integers = self.integers
        if self.view is None:
            scale, zero = (self._broadcast(part) for part in (scale, zero))
        else:
            integers, scale, zero = self._in_blocks(integers, scale, zero)
        if self.planes > 1:
            integers = integers.astype(np.int16) - self.grid.lowest
            zero = zero - self.grid.lowest
            packed = pack(integers, 2, self.grid.bits)
            return packed, scale, zero.astype(np.uint8)
        kept = zero.astype(self.grid.dtype) if zero.any() else None
        return integers.astype(self.grid.dtype, copy=False), scale, kept

    def _broadcast(self, part: np.ndarray) -> np.ndarray:
        axis = self.params.axis
        if axis is None:
            return part
        return part.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])

    def _in_blocks(
        self, integers: np.ndarray, scale: np.ndarray, zero: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before, length, after = self.view or (1, 1, 1)
        block = self.params.block
        blocks = -(-length // block)
        wide = np.zeros((before, blocks * block, after), integers.dtype)
        wide[:, :length] = integers
        shape = (before, blocks, block) if after == 1 else (before, blocks, block, after)
        thin = (*shape[:2], 1, *shape[3:])
        return wide.reshape(shape), scale.reshape(thin), zero.reshape(thin)


def pack(integers: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Put non-negative integers of few bits into bytes, in planes along an axis."""
    planes = np.split(integers, 8 // bits, axis)
    shifted = [p << (bits * i) for i, p in enumerate(planes)]
    return np.asarray(np.add.reduce(shifted), np.uint8)


def by_channel(values: np.ndarray, grid: Grid, balanced: bool) -> Coded:
    """Return a weight with a scale for each index of the axis that loses least."""
    found = [by_axis(values, grid, balanced, axis) for axis in _axes(values.shape)]
    errors = [float(np.square(values - c.values(), dtype=np.float64).sum()) for c in found]
    return found[int(np.argmin(errors))]


def by_axis(values: np.ndarray, grid: Grid, balanced: bool, axis: int | None) -> Coded:
    """Return a weight with a scale for each index of an axis, or with one scale."""
    params = scheme.fit(values, grid, balanced, axis)
    return Coded(values.shape, params, scheme.quantize(values, params))


def in_blocks(values: np.ndarray, grid: Grid, balanced: bool, view: View, block: int) -> Coded:
    """Return a weight with a scale for each block; a length below the block is one block."""
    seen = values.reshape(view)
    params = scheme.fit(seen, grid, balanced, 1, _even(min(block, view[1]), grid))
    return Coded(values.shape, params, scheme.quantize(seen, params), view)


def along(shape: tuple[int, ...], block: int) -> View:
    """Return the view whose runs are the trailing axes that hold a block, rows kept apart."""
    start = len(shape) - 1
    while start > 1 and math.prod(shape[start:]) < block:
        start -= 1
    if start == 1 and shape[0] == 1:
        start = 1 if math.prod(shape[1:]) >= block else 0
    return math.prod(shape[:start]), math.prod(shape[start:]), 1


def _axes(shape: tuple[int, ...]) -> list[int | None]:
    size = math.prod(shape)
    found: list[int | None] = [a for a, n in enumerate(shape) if 1 < n <= size // LEAST_RUN]
    return found or [None]


def _even(block: int, grid: Grid) -> int:
    planes = max(8 // grid.bits, 1)
    return -(-block // planes) * planes

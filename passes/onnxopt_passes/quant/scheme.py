"""Integer grids, and the arithmetic between them and floats.

    q = clip(round(x / scale) + zero_point, lowest, highest)        round half to even
    x ~ scale * (q - zero_point)

as QuantizeLinear and DequantizeLinear of ONNX have it. A *symmetric* scheme has zero_point 0 on a
signed grid and the middle on an unsigned one; its range is -highest..highest, so that int8 uses
-127..127. Scales are float32 and belong to the whole tensor, to an index of one axis, or to a block
of consecutive elements along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from types import EllipsisType

Granularity = Literal["tensor", "channel", "block"]

PART = 1 << 18
"""Elements that are computed in float64 at a time."""

LEAST_SCALE = 2.0**-100
"""Smaller scales, those of all-zero channels among them, are replaced by this."""


@dataclass(frozen=True)
class Grid:
    """An integer type.

    Attributes:
        name: As ONNX and numpy spell it.
        bits: Width.
        signed: Whether it has negative numbers.
    """

    name: str
    bits: int
    signed: bool

    @property
    def lowest(self) -> int:
        """The least number."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest number."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric scheme."""
        return 0 if self.signed else 1 << (self.bits - 1)

    @property
    def dtype(self) -> np.dtype:
        """The numpy type, one of ml_dtypes where it is narrower than a byte."""
        return np.dtype(getattr(ml_dtypes, self.name) if self.bits < 8 else self.name)


GRIDS = {
    g.name: g
    for g in (
        Grid("int2", 2, True),
        Grid("uint2", 2, False),
        Grid("int4", 4, True),
        Grid("uint4", 4, False),
        Grid("int8", 8, True),
        Grid("uint8", 8, False),
        Grid("int16", 16, True),
        Grid("uint16", 16, False),
        Grid("int32", 32, True),
    )
}
"""All grids by name."""


@dataclass(frozen=True)
class Params:
    """Scales and zero points.

    Attributes:
        scale: float32, positive; shape () for a tensor, (channels,) for an axis, the tensor's rank
            with ceil(size / block) in place of the axis for blocks.
        zero_point: The grid's type, same shape.
        grid: The integers.
        axis: The axis, None for a whole tensor.
        block: Elements along the axis that share a scale, 0 unless in blocks.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    grid: Grid
    axis: int | None = None
    block: int = 0


def extremes(
    values: np.ndarray, axis: int | None = None, block: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of a tensor, of each index of an axis, or of blocks.

    Shapes are those of `Params.scale`. The last block may be shorter.
    """
    if axis is None:
        return values.min(initial=0), values.max(initial=0)
    if not block:
        others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        return values.min(others, initial=0), values.max(others, initial=0)
    starts = np.arange(0, values.shape[axis], block)
    return np.minimum.reduceat(values, starts, axis), np.maximum.reduceat(values, starts, axis)


def affine(
    low: np.ndarray | float,
    high: np.ndarray | float,
    grid: Grid,
    axis: int | None = None,
    block: int = 0,
) -> Params:
    """Return the asymmetric scheme that spans low..high and has zero on the grid.

        scale = (high - low) / (highest - lowest)
        zero_point = round(lowest - low / scale)

    Args:
        low: Least values; zero is put into the range.
        high: Largest values, same shape.
        grid: The integers.
        axis: Which axis the values belong to, None for a tensor.
        block: Elements that share a scale.
    """
    low = np.minimum(np.asarray(low, np.float64), 0)
    high = np.maximum(np.asarray(high, np.float64), 0)
    scale = _scale((high - low) / (grid.highest - grid.lowest))
    zero = np.clip(np.rint(grid.lowest - low / scale), grid.lowest, grid.highest)
    return Params(scale, np.asarray(zero, grid.dtype), grid, axis, block)


def symmetric(
    largest: np.ndarray | float, grid: Grid, axis: int | None = None, block: int = 0
) -> Params:
    """Return the symmetric scheme for magnitudes up to `largest`: scale = largest / top.

    `top` is the grid's largest number as seen from its middle, 127 for int8 and uint8.
    """
    scale = _scale(np.asarray(largest, np.float64) / (grid.highest - grid.middle))
    return Params(scale, np.full(scale.shape, grid.middle, grid.dtype), grid, axis, block)


def fit(
    values: np.ndarray, grid: Grid, balanced: bool, axis: int | None = None, block: int = 0
) -> Params:
    """Return the scheme that spans a weight's values: symmetric if `balanced`, else affine."""
    low, high = extremes(values, axis, block)
    if balanced:
        return symmetric(np.maximum(-low, high), grid, axis, block)
    return affine(low, high, grid, axis, block)


def spread(part: np.ndarray, shape: tuple[int, ...], axis: int | None, block: int) -> np.ndarray:
    """Broadcast scales or zero points over a tensor of that shape."""
    if axis is None:
        return np.broadcast_to(part, shape)
    if block:
        return np.repeat(part, block, axis).take(range(shape[axis]), axis)
    view = [1] * len(shape)
    view[axis] = -1
    return np.broadcast_to(part.reshape(view), shape)


def quantize(values: np.ndarray, params: Params) -> np.ndarray:
    """Return the integers nearest to floats, in the grid's type."""
    scale, zero = _over(values, params)
    low, high = limits(params)
    integers = np.empty(values.shape, params.grid.dtype)
    for part in _parts(values):
        steps = np.asarray(np.divide(values[part], scale[part], dtype=np.float64))
        np.rint(steps, out=steps)
        steps += zero[part]
        integers[part] = np.clip(steps, low, high, out=steps).astype(params.grid.dtype)
    return integers


def limits(params: Params) -> tuple[int, int]:
    """Return the least and the largest integer that a scheme uses."""
    grid = params.grid
    low = grid.lowest + (1 if grid.signed and _balanced(params) and grid.bits > 2 else 0)
    return low, grid.highest


def dequantize(integers: np.ndarray, params: Params, out: np.ndarray | None = None) -> np.ndarray:
    """Return the floats that integers stand for, float32, of their shape; in `out` if given."""
    scale, zero = _over(integers, params)
    floats = np.empty(integers.shape, np.float32) if out is None else out
    for part in _parts(integers):
        steps = integers[part].astype(np.float64)
        steps -= zero[part]
        floats[part] = np.multiply(steps, scale[part], out=steps)
    return floats


def _parts(values: np.ndarray) -> list[slice | EllipsisType]:
    """Return runs along the first axis, so that no large tensor is held in float64 as a whole."""
    if values.size <= PART:
        return [...]
    step = max(PART * len(values) // values.size, 1)
    return [slice(i, i + step) for i in range(0, len(values), step)]


def rounded(values: np.ndarray, params: Params) -> np.ndarray:
    """Return floats as they come back from the grid, float32."""
    return dequantize(quantize(values, params), params)


def _over(values: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    parts = (params.scale, params.zero_point.astype(np.float32))
    scale, zero = (spread(p, values.shape, params.axis, params.block) for p in parts)
    return scale, zero


def _balanced(params: Params) -> bool:
    return not params.zero_point.astype(np.int64).any()


def _scale(wanted: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(wanted, LEAST_SCALE), np.float32)

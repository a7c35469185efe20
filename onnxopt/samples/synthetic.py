"""Random samples drawn from the interface of a model, for passes that promise exactness."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Feed, Loader, Sample, Samples
from onnxopt.samples.check import has_nan, integer_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt.model.interface import Dim, Port

BATCHES = (1, 2, 3)
SIZES = (8, 16, 32, 64, 128, 256, 512)
IMAGE_SIZES = (32, 64, 96, 128)  # networks that shrink and grow images want multiples of 32
MOST_BYTES = 1 << 30

Bindings = dict[str | int, int]
"""The size of a symbol, or of all nameless dimensions of one axis number."""


def synthetic(
    inputs: Sequence[Port],
    *,
    seed: int = 0,
    n: int = 4,
    pool: Mapping[str, Sequence[int]] | None = None,
) -> Samples:
    """Draw random samples for all inputs that have no default.

    Equal symbols get equal sizes within a sample, and so do nameless dimensions of the same axis
    number. Sizes differ from sample to sample: what occurs as a first dimension is 1, 2, 3 in
    turn; others are 8 to 512 (32, 64, 96, 128 from the third axis on where there are four or
    more), in even samples all alike (some models want squares), in odd ones not. In every fourth
    sample all nameless dimensions of inputs after the first are the batch, as those of states are.

    Floats are normal, in [0, 1), or wide with zeros, in turn. Integers are 0 to 2 or 0 to 1 in
    turn, since they often are indices, masks or lengths. Strings are "a" or "b".

    Args:
        inputs: The inputs of the model.
        seed: Another number gives other values; 0 or more.
        n: The number of samples.
        pool: The sizes to choose from, in turn, by symbol.

    Raises:
        SamplesError: An input is not a tensor of known type and rank, a sample is larger than
            1 GiB, or a pool is empty.
    """
    pool = pool or {}
    for symbol, sizes in pool.items():
        if not sizes or min(sizes) < 0:
            raise SamplesError(f"synthetic: no sizes for {symbol!r}: give some, 0 or more")
    required = [port for port in inputs if port.required]
    free = _free(required)
    bindings = [_bind(free, i, pool) for i in range(n)]
    shapes = [
        [_shape(port, bound, number > 0 and i % 4 == 3) for number, port in enumerate(required)]
        for i, bound in enumerate(bindings)
    ]
    for drawn in shapes:
        _check_size(required, drawn)

    def loaders() -> list[Loader]:
        return [partial(_draw, required, drawn, seed, i) for i, drawn in enumerate(shapes)]

    return Samples(loaders, "synthetic", length=n, synthetic=True)


def _free(ports: Sequence[Port]) -> dict[str | int, tuple[int, ...]]:
    """Return all dimensions that are not fixed, in order, and the sizes to choose from."""
    found: dict[str | int, tuple[int, ...]] = {}
    for port in ports:
        if port.shape is None or port.dtype is None:
            raise SamplesError(
                f"synthetic: inputs cannot be drawn for {port}: give calibration data"
            )
        for axis, dim in enumerate(port.shape):
            key = _key(dim, axis)
            if key is None or found.get(key) == BATCHES:
                continue
            if axis == 0:
                found[key] = BATCHES
            elif axis > 1 and len(port.shape) > 3:
                found[key] = IMAGE_SIZES
            else:
                found.setdefault(key, SIZES)
    return found


def _key(dim: Dim, axis: int) -> str | int | None:
    """Return what a dimension is bound by: its symbol or axis number; None if it is fixed."""
    if isinstance(dim, str):
        return dim
    return axis if dim is None or dim < 0 else None


def _bind(
    free: Mapping[str | int, tuple[int, ...]], i: int, pool: Mapping[str, Sequence[int]]
) -> Bindings:
    """Choose the sizes of sample `i`."""
    bound: Bindings = {}
    others = 0
    for key, sizes in free.items():
        if isinstance(key, str) and key in pool:
            bound[key] = pool[key][i % len(pool[key])]
        elif sizes == BATCHES:
            bound[key] = sizes[i % len(sizes)]
        else:
            bound[key] = sizes[(i + others * (i % 2)) % len(sizes)]
            others += 1
    return bound


def _shape(port: Port, bound: Bindings, state: bool) -> tuple[int, ...]:
    """Return the shape of an input under some bindings; a state's nameless axes are the batch."""
    found = []
    for axis, dim in enumerate(port.shape or ()):
        key = _key(dim, axis)
        if state and isinstance(key, int):
            found.append(bound.get(0, 1))
        else:
            found.append(int(dim or 0) if key is None else bound[key])
    return tuple(found)


def _check_size(ports: Sequence[Port], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise SamplesError if a sample would be absurdly large."""
    sizes = {
        port.name: math.prod(shape) * port.dtype.itemsize
        for port, shape in zip(ports, shapes, strict=True)
        if port.dtype is not None
    }
    if sum(sizes.values()) > MOST_BYTES:
        name = max(sizes, key=lambda key: sizes[key])
        raise SamplesError(
            f"synthetic: input {name!r} would take {sizes[name] / 2**30:.1f} GiB a sample: "
            "give calibration data"
        )


def _draw(ports: Sequence[Port], shapes: Sequence[tuple[int, ...]], seed: int, i: int) -> Sample:
    """Draw sample `i`."""
    rng = np.random.default_rng((seed, i))
    feed: Feed = {}
    for port, shape in zip(ports, shapes, strict=True):
        if port.dtype is not None:
            feed[port.name] = _values(rng, shape, port.dtype, i)
    return Sample(feed)


def _values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, i: int
) -> np.ndarray:
    """Draw the values of one input."""
    if dtype.kind == "O":
        return np.asarray(rng.choice(["a", "b"], shape), dtype=object)
    limits = integer_range(dtype)
    if limits is not None:
        most = min(2 - i % 2, limits[1])
        return np.asarray(rng.integers(0, most, shape, endpoint=True)).astype(dtype)
    values = _floats(rng, shape, i)
    if dtype.kind == "c":
        values = values + 1j * _floats(rng, shape, i)
    found = values.astype(dtype)
    if has_nan(found):  # a type without zero or sign
        found = np.abs(values).clip(0.5).astype(dtype)
    return found


def _floats(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> np.ndarray:
    """Draw float64 values in the manner of sample `i`."""
    if i % 4 == 1:
        return np.asarray(rng.random(shape))
    values = np.asarray(rng.standard_normal(shape))
    if i % 4 == 2:
        return np.asarray(np.where(rng.random(shape) < 0.1, 0.0, 10 * values))
    return values

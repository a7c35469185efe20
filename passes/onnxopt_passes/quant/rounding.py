"""Weights rounded so that what a layer computes stays near, not the weights themselves.

Of a layer y = W x with the Gram matrix H of its inputs, integers Q, scales s and zero points z:

    error = sum over rows e H e^T,      e = w - s (q - z)

Three ways to lower it, each on matrices of shape (groups, outputs, inputs), H (groups, inputs,
inputs), or H of parts of the columns, where those of different parts are taken to be uncorrelated:

    shrunk      scales times a factor of a grid, the best for each (SeqMSE of AIMET)
    propagated  column after column, the rest makes up for its error (GPTQ, Frantar et al. 2022)
    descended   single integers moved while that lowers the error: coordinate descent, what AdaRound
                (Nagel et al. 2020) seeks by gradients

Outputs do not depend on each other but for their scales, and are taken in runs, so that little is
held in float64 besides H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.statistics.grams import product

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTORS = {True: np.linspace(1.0, 0.5, 21), False: np.linspace(1.0, 0.8, 9)}
"""What scales are multiplied by where there are few steps, and where there are many."""

FEW_STEPS = 64
"""Steps of a grid up to which they are few."""

MANY = 1 << 18
"""Products from which on onnxruntime multiplies, in float32: much faster than numpy here."""

DAMP = 0.01
"""Part of the mean diagonal that is added to H: what few samples do not know of it."""

COLUMNS = 128
"""Columns between two products of matrices."""

SWEEPS = 3
"""Passes of coordinate descent over all columns, at most."""

PART = 1 << 18
"""Elements of a matrix in one run of outputs."""


@dataclass(frozen=True)
class Steps:
    """The grid of each element of a matrix; all float64 of its shape, or views that repeat.

    Attributes:
        scale: Scales.
        zero: Zero points.
        low: Least integers.
        high: Largest integers.
    """

    scale: np.ndarray
    zero: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Return the integers nearest to floats."""
        found: np.ndarray = np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high)
        return found

    def floats(self, integers: np.ndarray) -> np.ndarray:
        """Return what integers stand for."""
        found: np.ndarray = (integers - self.zero) * self.scale
        return found

    def of(self, outputs: slice) -> Steps:
        """Return the grid of some outputs."""
        parts = (self.scale, self.zero, self.low, self.high)
        return Steps(*(part[:, outputs] for part in parts))

    def columns(self, part: slice) -> Steps:
        """Return the grid of some columns."""
        parts = (self.scale, self.zero, self.low, self.high)
        return Steps(*(values[..., part] for values in parts))

    def ordered(self, order: np.ndarray) -> Steps:
        """Return the grid with columns in another order, (groups, 1, inputs)."""
        parts = (self.scale, self.zero, self.low, self.high)
        return Steps(*(np.take_along_axis(part, order, -1) for part in parts))


def damped(gram: np.ndarray) -> np.ndarray:
    """Add a little of its mean diagonal to H, in place, so that it is positive definite."""
    diagonal = np.einsum("gii->gi", gram)
    mean = diagonal.mean(-1, keepdims=True)
    diagonal += DAMP * np.where(mean > 0, mean, 1.0)
    return gram


def runs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the outputs of a matrix of shape (groups, outputs, inputs), a run at a time."""
    groups, outputs, inputs = shape
    step = max(PART // max(groups * inputs, 1), 1)
    for start in range(0, outputs, step):
        yield slice(start, start + step)


Parts = Sequence[tuple[slice, np.ndarray]]
"""Columns, and their H."""


def error(weight: np.ndarray, rounded: np.ndarray, parts: Parts) -> float:
    """Return the sum of e H e^T over all rows and parts."""
    total = 0.0
    for columns, gram in parts:
        product, exact, found = _Product(gram), weight[..., columns], rounded[..., columns]
        for part in runs(exact.shape):
            difference = exact[:, part].astype(np.float64) - found[:, part]
            total += float(np.sum(product.by(difference) * difference))
    return total


def shrunk(weight: np.ndarray, steps: Steps, owner: np.ndarray, parts: Parts) -> np.ndarray:
    """Return the best factor for each scale, float64 of shape (scales,).

    Args:
        weight: W.
        steps: Its grid.
        owner: Which scale an element has, of W's shape; columns share one in all rows alike.
        parts: H of all columns. Only errors under one scale are seen together.
    """
    factors = FACTORS[bool(steps.high.max() - steps.low.min() <= FEW_STEPS)]
    errors = np.zeros((len(factors), int(owner.max()) + 1))
    for columns, gram in parts:
        grid, own = steps.columns(columns), owner[..., columns]
        _add_errors(errors, factors, weight[..., columns], grid, own, gram)
    best: np.ndarray = factors[errors.argmin(0)]
    return best


def _add_errors(
    errors: np.ndarray,
    factors: np.ndarray,
    weight: np.ndarray,
    steps: Steps,
    owner: np.ndarray,
    gram: np.ndarray,
) -> None:
    """Add what scales lose in some columns with each factor, (factors, scales)."""
    if (owner[:, 0] != owner[:, 0, :1]).any():
        gram = np.where(owner[:, 0, :, None] == owner[:, 0, None, :], gram, 0.0)
    seen = _Product(gram)
    for part in runs(weight.shape):
        some, exact, own = steps.of(part), weight[:, part].astype(np.float64), owner[:, part]
        for found, factor in zip(errors, factors, strict=True):
            tried = Steps(some.scale * factor, some.zero, some.low, some.high)
            difference = exact - tried.floats(tried.nearest(exact))
            squares = difference * seen.by(difference)
            found += np.bincount(own.reshape(-1), squares.reshape(-1), len(found))


def propagated(weight: np.ndarray, steps: Steps, gram: np.ndarray) -> np.ndarray:
    """Return integers of which each column makes up for the errors of those before it.

    Columns go by falling diagonal of H.

    Args:
        weight: W.
        steps: Its grid.
        gram: H, positive definite.

    Returns:
        float32 of W's shape.
    """
    order = np.argsort(-np.einsum("gii->gi", gram), axis=-1, kind="stable")
    across = order[:, None, :]
    turned = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), across, 2)
    upper = np.linalg.cholesky(np.linalg.inv(turned)).transpose(0, 2, 1)
    del turned
    found = np.empty(weight.shape, np.float32)
    for part in runs(weight.shape):
        rest = np.take_along_axis(weight[:, part].astype(np.float64), across, -1)
        integers = _passed_on(rest, steps.of(part).ordered(across), upper)
        np.put_along_axis(found[:, part], across, integers.astype(np.float32), -1)
    return found


def _passed_on(rest: np.ndarray, grid: Steps, upper: np.ndarray) -> np.ndarray:
    """Round column after column, and take each one's error off those behind it.

    Args:
        rest: W in the order of columns; overwritten.
        grid: Its grid, in the same order.
        upper: U with U^T U = H^-1.
    """
    integers = np.empty_like(rest)
    for start in range(0, rest.shape[-1], COLUMNS):
        stop = min(start + COLUMNS, rest.shape[-1])
        errors = np.empty((*rest.shape[:2], stop - start))
        for j in range(start, stop):
            column = grid.scale[..., j], grid.zero[..., j], grid.low[..., j], grid.high[..., j]
            one = Steps(*column)
            integers[..., j] = one.nearest(rest[..., j])
            left = (rest[..., j] - one.floats(integers[..., j])) / upper[:, j, j, None]
            rest[..., j:stop] -= left[..., None] * upper[:, None, j, j:stop]
            errors[..., j - start] = left
        rest[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return integers


def descended(
    weight: np.ndarray, steps: Steps, gram: np.ndarray, integers: np.ndarray | None = None
) -> np.ndarray:
    """Return integers none of which can be moved alone without raising the error.

    Args:
        weight: W.
        steps: Its grid.
        gram: H, with a positive diagonal.
        integers: Where to begin, the nearest ones if None.

    Returns:
        float32 of W's shape.
    """
    found = np.empty(weight.shape, np.float32)
    for part in runs(weight.shape):
        some, exact = steps.of(part), weight[:, part].astype(np.float64)
        start = some.nearest(exact) if integers is None else integers[:, part].astype(np.float64)
        found[:, part] = _moved(exact, some, gram, start)
    return found


def _moved(weight: np.ndarray, steps: Steps, gram: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Move integers in place while that lowers the error; return them."""
    slope = (weight - steps.floats(found)) @ gram
    diagonal = np.einsum("gii->gi", gram)
    for _ in range(SWEEPS):
        moved = False
        for start in range(0, found.shape[-1], COLUMNS):
            stop = min(start + COLUMNS, found.shape[-1])
            moves = np.zeros((*found.shape[:2], stop - start))
            for j in range(start, stop):
                scale = steps.scale[..., j]
                wanted = np.rint(slope[..., j] / (diagonal[:, j, None] * scale))
                target = np.clip(found[..., j] + wanted, steps.low[..., j], steps.high[..., j])
                move = (target - found[..., j]) * scale
                if not move.any():
                    continue
                found[..., j] = target
                slope[..., start:stop] -= move[..., None] * gram[:, None, j, start:stop]
                moves[..., j - start] = move
            if moves.any():
                moved = True
                slope[..., :start] -= moves @ gram[:, start:stop, :start]
                slope[..., stop:] -= moves @ gram[:, start:stop, stop:]
        if not moved:
            break
    return found


class _Product:
    """Multiplies by H, in float32 where there is much of it."""

    def __init__(self, gram: np.ndarray) -> None:
        self._gram = gram
        self._size = float(np.einsum("gii->gi", gram).max(initial=0.0)) or 1.0  # the largest of H
        self._single: np.ndarray | None = None

    def by(self, difference: np.ndarray) -> np.ndarray:
        """Return e H, float64 of e's shape, (groups, outputs, inputs)."""
        if difference.size * self._gram.shape[-1] < MANY:
            return np.asarray(difference @ self._gram)
        if self._single is None:
            self._single = np.divide(self._gram, self._size, dtype=np.float32, casting="same_kind")
        left = difference.transpose(0, 2, 1).astype(np.float32)
        return np.asarray(product(left, self._single), np.float64) * self._size

"""Weights rounded so that what a layer computes stays near, not the weights themselves.

Of a layer y = W x with the Gram matrix H of its inputs, integers Q, scales s and zero points z:

    error = sum over rows e H e^T,      e = w - s (q - z)

Three ways to lower it, each on matrices of shape (groups, outputs, inputs), H (groups, inputs,
inputs):

    shrunk      scales times a factor of a grid, the best for each (SeqMSE of AIMET)
    propagated  column after column, the rest makes up for its error (GPTQ, Frantar et al. 2022)
    descended   single integers moved while that lowers the error: coordinate descent, what AdaRound
                (Nagel et al. 2020) seeks by gradients
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.statistics.grams import product

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


@dataclass(frozen=True)
class Steps:
    """The grid of each element of a matrix; all float64 of its shape.

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

    def ordered(self, order: np.ndarray) -> Steps:
        """Return the grid with columns in another order, (groups, 1, inputs)."""
        parts = (self.scale, self.zero, self.low, self.high)
        return Steps(*(np.take_along_axis(part, order, -1) for part in parts))


def damped(gram: np.ndarray) -> np.ndarray:
    """Return H with a little of its mean diagonal added, positive definite."""
    diagonal = np.einsum("gii->gi", gram).mean(-1)
    ridge = DAMP * np.where(diagonal > 0, diagonal, 1.0)
    return np.asarray(gram + ridge[:, None, None] * np.eye(gram.shape[-1]))


def error(weight: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> float:
    """Return the sum of e H e^T over all rows."""
    difference = weight - rounded
    return float(np.sum(_times(difference, gram) * difference))


def shrunk(weight: np.ndarray, steps: Steps, owner: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return the best factor for each scale, float64 of shape (scales,).

    Args:
        weight: W.
        steps: Its grid.
        owner: Which scale an element has, of W's shape; columns share one in all rows alike.
        gram: H. Only errors under one scale are seen together.
    """
    together = owner[:, 0, :, None] == owner[:, 0, None, :]
    seen = np.where(together, gram, 0.0)
    count = int(owner.max()) + 1
    few = bool((steps.high - steps.low).max() <= FEW_STEPS)
    best, least = np.ones(count), np.full(count, np.inf)
    for factor in FACTORS[few]:
        tried = Steps(steps.scale * factor, steps.zero, steps.low, steps.high)
        difference = weight - tried.floats(tried.nearest(weight))
        squares = difference * _times(difference, seen)
        found = np.bincount(owner.reshape(-1), squares.reshape(-1), count)
        better = found < least
        best, least = np.where(better, factor, best), np.where(better, found, least)
    return best


def propagated(weight: np.ndarray, steps: Steps, gram: np.ndarray) -> np.ndarray:
    """Return integers of which each column makes up for the errors of those before it.

    Columns go by falling diagonal of H.

    Args:
        weight: W.
        steps: Its grid.
        gram: H, positive definite.
    """
    order = np.argsort(-np.einsum("gii->gi", gram), axis=-1, kind="stable")
    across = order[:, None, :]
    turned = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), across, 2)
    upper = np.linalg.cholesky(np.linalg.inv(turned)).transpose(0, 2, 1)
    rest = np.take_along_axis(weight, across, -1)
    grid = steps.ordered(across)
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
    found = np.empty_like(integers)
    np.put_along_axis(found, across, integers, -1)
    return found


def descended(
    weight: np.ndarray, steps: Steps, gram: np.ndarray, integers: np.ndarray
) -> np.ndarray:
    """Return integers none of which can be moved alone without raising the error.

    Args:
        weight: W.
        steps: Its grid.
        gram: H, with a positive diagonal.
        integers: Where to begin.
    """
    found: np.ndarray = integers.copy()
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


def _times(difference: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return e H, multiplied in float32 where there is much of it."""
    if difference.size * gram.shape[-1] < MANY:
        return np.asarray(difference @ gram)
    size = np.abs(gram).max(initial=0.0) or 1.0
    left = difference.transpose(0, 2, 1).astype(np.float32)
    return np.asarray(product(left, (gram / size).astype(np.float32)), np.float64) * size

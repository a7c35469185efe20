"""Which weights of a matrix become zero, and how the others make up for it.

Columns are visited from left to right. With U the upper Cholesky factor of H^-1 = U^T U, H = S +
lambda I and S the second moments of what the layer reads, setting w_j to zero costs (w_j / U_jj)^2
once all columns before it are settled, and the best change of the columns after it is

    w_{j:} - (w_j / U_jj) U_{j,j:}

(Hassibi and Stork 1993; SparseGPT, Frantar and Alistarh 2023). Within a block of columns, those
weights become zero that cost least. Without S they are those of least magnitude, and the others
stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.least_squares import damp

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 128
"""Columns among which weights compete."""

RIDGE = 1e-2
"""Multiple of the mean variance that is added to H's diagonal."""


def share(ratio: float) -> Callable[[np.ndarray], np.ndarray]:
    """Choose the cheapest weights of a group and block, so many of all."""

    def choose(costs: np.ndarray) -> np.ndarray:
        flat = costs.reshape(len(costs), -1)
        count = round(ratio * flat.shape[1])
        cheapest = np.argsort(flat, axis=1, kind="stable")[:, :count]
        mask = np.zeros(flat.shape, bool)
        np.put_along_axis(mask, cheapest, True, axis=1)
        return np.asarray(mask.reshape(costs.shape))

    return choose


def pattern(kept: int, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Choose the cheapest weights of every `size` neighbours in a row, so that `kept` stay."""

    def choose(costs: np.ndarray) -> np.ndarray:
        split = costs.reshape(*costs.shape[:-1], -1, size)
        cheapest = np.argsort(split, axis=-1, kind="stable")[..., : size - kept]
        mask = np.zeros(split.shape, bool)
        np.put_along_axis(mask, cheapest, True, axis=-1)
        return np.asarray(mask.reshape(costs.shape))

    return choose


def holds(
    matrix: np.ndarray, choose: Callable[[np.ndarray], np.ndarray], block: int = BLOCK
) -> bool:
    """Whether all that would be chosen is zero already."""
    parts = (matrix[:, :, i : i + block] for i in range(0, matrix.shape[2], block))
    return all(not part[choose(np.abs(part))].any() for part in parts)


def by_magnitude(
    matrix: np.ndarray, choose: Callable[[np.ndarray], np.ndarray], block: int = BLOCK
) -> np.ndarray:
    """Return a matrix (groups, outputs, inputs) with its smallest weights zero."""
    found = np.array(matrix)
    for start in range(0, matrix.shape[2], block):
        part = found[:, :, start : start + block]
        part[choose(np.abs(part))] = 0
    return found


def with_updates(
    matrix: np.ndarray,
    second: np.ndarray,
    choose: Callable[[np.ndarray], np.ndarray],
    block: int = BLOCK,
    ridge: float = RIDGE,
) -> np.ndarray:
    """Return a matrix with those weights zero that cost least, the others updated.

    Args:
        matrix: W, (groups, outputs, inputs), float64.
        second: S, (groups, inputs, inputs).
        choose: Which weights of a block become zero.
        block: Columns of a block; a multiple of the pattern's size.
        ridge: Multiple of the mean variance on H's diagonal.
    """
    w = np.array(matrix)
    inverse = np.linalg.inv(damp(second, ridge))
    inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
    u = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    columns = w.shape[2]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        diagonal = np.diagonal(u, axis1=1, axis2=2)[:, None, start:stop]
        mask = choose((w[:, :, start:stop] / diagonal) ** 2)
        errors = np.zeros((len(w), w.shape[1], stop - start))
        for j in range(start, stop):
            error = np.where(mask[:, :, j - start], w[:, :, j], 0) / u[:, j, j, None]
            w[:, :, j:stop] -= error[:, :, None] * u[:, j, None, j:stop]
            w[:, :, j][mask[:, :, j - start]] = 0
            errors[:, :, j - start] = error
        w[:, :, stop:] -= errors @ u[:, start:stop, stop:]
    return w

"""Least squares for layers that lost inputs, or whose inputs changed.

With S the covariance of what a layer reads, P the inputs that are kept and R those that are
removed, W' = W_P + W_R A and b' = b + W_R (mu_R - A mu_P), A = S_RP (S_PP + lambda I)^-1, is the
best layer for unchanged inputs (`absorb`). Inputs x~ that changed because layers before were cut,
and targets y* that the uncut model computes, give the sequential form (`refit`)

    W' = W0 + (C_{y*x~} - W0 C_{x~x~}) (C_{x~x~} + lambda I)^-1,   b' = E[y*] - W' E[x~],

ridge regression towards the prior W0, not towards zero. lambda is a multiple of the mean variance
of an input, chosen by the error on samples held out of the fit. GRAIL (2025) and He et al. (2017,
"Channel Pruning for Accelerating Very Deep Neural Networks") use the same regressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.statistics.grams import merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt.statistics.grams import Statistics

RIDGES = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)
"""Multiples of the mean variance of an input that are tried."""

TINY = 1e-12
"""Smallest variance, to divide by."""


@dataclass(frozen=True)
class Fit:
    """What came out of one regression.

    Attributes:
        matrix: W', (groups, outputs, inputs), float64.
        offsets: b', (groups, outputs).
        before: Held-out error of the prior, as a share of the target's variance.
        after: Held-out error of the fit.
        ridge: The multiple that was chosen; None where the prior was better than every fit.
    """

    matrix: np.ndarray
    offsets: np.ndarray
    before: float
    after: float
    ridge: float | None


def refit(
    fitted: Statistics,
    held: Statistics,
    matrix: np.ndarray,
    offsets: np.ndarray,
    biased: bool = True,
) -> Fit:
    """Return the layer that computes the targets best.

    Args:
        fitted: Moments of x~ and y* on samples to fit on.
        held: The same on samples to choose lambda on. The final fit uses both.
        matrix: The prior W0, (groups, outputs, inputs).
        offsets: The prior's bias, (groups, outputs).
        biased: Whether the bias may change; if not, moments about zero are fitted.

    Returns:
        The prior itself where every fit has a larger error on `held`.
    """
    scale = max(float(held.yy.sum()), TINY)
    parts = (fitted, merged([fitted, held]))
    if not biased:
        rest = [_without(p, offsets) for p in (*parts, held)]
        fitted, whole, tested = (p.raw() for p in rest)
    else:
        (fitted, whole), tested = parts, held
    target = offsets if biased else np.zeros_like(offsets)
    before = float(tested.error(matrix, target).sum()) / scale

    def error(ridge: float) -> float:
        found = _solve(fitted, matrix, ridge)
        shift = _offsets(fitted, found) if biased else target
        return float(tested.error(found, shift).sum()) / scale

    chosen, best = best_ridge(error)
    if not best < before:
        return Fit(matrix, offsets, before, before, None)
    final = _solve(whole, matrix, chosen)
    return Fit(final, _offsets(whole, final) if biased else offsets, before, best, chosen)


def best_ridge(error: Callable[[float], float]) -> tuple[float, float]:
    """Return the ridge of `RIDGES` with the least error, and the error.

    The error falls and then rises with the ridge: from the middle it is followed downhill.
    """
    found: dict[int, float] = {}

    def at(index: int) -> float:
        if not 0 <= index < len(RIDGES):
            return np.inf
        if index not in found:
            value = error(RIDGES[index])
            found[index] = value if np.isfinite(value) else np.inf
        return found[index]

    here = len(RIDGES) // 2
    for step in (-1, 1):
        while at(here + step) < at(here):
            here += step
    return RIDGES[here], at(here)


def _without(part: Statistics, offsets: np.ndarray) -> Statistics:
    """Return moments with a fixed bias taken off the targets."""
    return type(part)(part.count, part.x, part.y - offsets, part.xx, part.yx, part.yy)


def _offsets(part: Statistics, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(part.y - np.einsum("goi,gi->go", matrix, part.x))


def _solve(part: Statistics, prior: np.ndarray, ridge: float) -> np.ndarray:
    residual = part.yx - prior @ part.xx
    return np.asarray(prior + solve(residual, part.xx, ridge))


def solve(right: np.ndarray, second: np.ndarray, ridge: float) -> np.ndarray:
    """Return R (S + lambda I)^-1 for each group, lambda = ridge * mean of S's diagonal.

    Args:
        right: R, (groups, outputs, inputs).
        second: S, (groups, inputs, inputs), symmetric.
        ridge: The multiple.
    """
    damped = damp(second, ridge)
    return np.asarray(np.linalg.solve(damped, right.transpose(0, 2, 1)).transpose(0, 2, 1))


def damp(second: np.ndarray, ridge: float) -> np.ndarray:
    """Return S + lambda I for each group; lambda = ridge * mean of the diagonal."""
    size = second.shape[-1]
    scale = np.trace(second, axis1=1, axis2=2) / max(size, 1)
    level = np.maximum(ridge * scale, TINY)
    return np.asarray(second + level[:, None, None] * np.eye(size))


def absorb(
    matrix: np.ndarray,
    offsets: np.ndarray,
    part: Statistics,
    kept: np.ndarray,
    biased: bool = True,
    ridge: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best layer on some of its inputs, the inputs being what they were.

    Args:
        matrix: W of one group, (outputs, inputs).
        offsets: b, (outputs,).
        part: Moments of all inputs; its first group is read.
        kept: Indices of the inputs that stay, in their new order.
        biased: Whether the bias may change.
        ridge: Multiple of the mean variance.

    Returns:
        W' of shape (outputs, kept) and b'.
    """
    moments = part if biased else part.raw()
    second, mean = moments.xx[0], moments.x[0]
    cross = matrix @ second[:, kept]  # W S_.P, the inputs kept included
    inner = second[np.ix_(kept, kept)]
    prior = matrix[:, kept]
    found = prior + solve((cross - prior @ inner)[None], inner[None], ridge)[0]
    return found, offsets + matrix @ mean - found @ mean[kept]

"""Fits through an activation that is flat: what it hides need not be fitted.

Relu gives 0 for everything below 0. Where the uncut model computes y <= 0 it is enough that the
fitted layer stays there too, and least squares spends its freedom on what shows. With an activation
that is flat below `low` and above `high`, the targets

    z = y           where low < y < high
    z = min(p, low)   where y <= low,    z = max(p, high)   where y >= high

are the nearest to the prediction p = W x + b that look the same behind it. Fitting z, predicting
anew and so on lowers the sum of (z - p)^2 with every round (alternating minimization; Zhang et al.
2016, "Accelerating Very Deep Convolutional Networks", alternate likewise for Relu). Moments of all
rows are known; how z differs from y is estimated on some rows, and the round with the least error
behind the activation on rows held out is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.statistics.grams import product
from onnxopt_passes.prune.least_squares import damp

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.statistics.grams import Statistics
    from onnxopt_passes.prune.least_squares import Fit

ROUNDS = 6
"""Fits, at most."""

ROWS = 16_384
"""Rows of a layer that are kept."""

ELEMENTS = 1 << 24
"""Elements of all rows that are kept at once."""

HARD_SWISH = 3.0
"""HardSwish is 0 below minus that."""


@dataclass(frozen=True)
class Clamp:
    """Where an activation is flat: at or below `low`, at or above `high`."""

    low: float = -np.inf
    high: float = np.inf

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Return what differs behind the activation."""
        return np.asarray(np.clip(y, self.low, self.high))

    def nearest(self, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return z: as y behind the activation, and otherwise as near to p as can be."""
        below = np.minimum(p, np.float32(self.low))
        above = np.maximum(p, np.float32(self.high))
        return np.where(y <= self.low, below, np.where(y >= self.high, above, y))


def after(tensor: gs.Tensor) -> Clamp | None:
    """Return where what is seen of a tensor is flat; None where all of it counts."""
    if match.fetched(tensor) or len(tensor.outputs) != 1:
        return None
    node = tensor.outputs[0]
    if match.is_op(node, "Relu"):
        return Clamp(low=0.0)
    if match.is_op(node, "HardSwish"):
        return Clamp(low=-HARD_SWISH)
    if match.is_op(node, "Clip") and node.inputs[:1] == [tensor]:
        low, high = (_bound(node, i, name) for i, name in ((1, "min"), (2, "max")))
        if low is not None and high is not None and low < high:
            return Clamp(low, high)
    return None


def _bound(node: gs.Node, index: int, name: str) -> float | None:
    """Return a bound of a Clip, infinite where it has none; None where it is computed."""
    if match.given(node, index):
        value = match.scalar(node.inputs[index])
    else:
        value = match.attribute(node, name, -np.inf if index == 1 else np.inf)
    return float(value) if isinstance(value, int | float) else None


@dataclass
class Rows:
    """Some rows of a layer: what it reads, its targets, and what is added to it.

    Args:
        every: One row in so many is kept.
    """

    every: int
    _parts: dict[bool, list[tuple[np.ndarray, ...]]] = field(
        default_factory=lambda: {False: [], True: []}
    )
    _seen: int = 0

    def add(self, held: bool, x: np.ndarray, *others: np.ndarray) -> None:
        """Add rows of one sample, (groups, rows, columns) each."""
        first = -self._seen % self.every
        self._seen += x.shape[1]
        self._parts[held].append(tuple(a[:, first :: self.every] for a in (x, *others)))

    def taken(self, held: bool) -> list[np.ndarray]:
        """Return what was added, held out or not; empty where there is none."""
        columns = zip(*self._parts[held], strict=True)
        return [np.concatenate(parts, axis=1) for parts in columns]


def spacing(count: int, width: int, layers: int) -> int:
    """Return how many rows go for one that is kept.

    Args:
        count: Rows of the layer in all samples.
        width: Elements of one row.
        layers: How many layers keep rows at once.
    """
    room = max(min(ROWS, ELEMENTS // max(width * layers, 1)), 1)
    return max(-(-count // room), 1)


def refine(found: Fit, moments: Statistics, prior: np.ndarray, clamp: Clamp, rows: Rows) -> Fit:
    """Return a fit whose error behind an activation is smaller; the same where there is none.

    Args:
        found: The least squares fit of y, with a ridge.
        moments: Moments of all rows; y is what the layer is to compute itself.
        prior: W0, that the ridge is towards.
        clamp: Where the activation is flat.
        rows: x, y and what is added to the layer before the activation.
    """
    fit, test = rows.taken(held=False), rows.taken(held=True)
    if not fit or not test or found.ridge is None:
        return found
    inverse = np.linalg.inv(damp(moments.xx, found.ridge))
    best, least = found, _error(found, clamp, test)
    x, y, rest = fit
    center = x.mean(axis=1, dtype=np.float64)
    start = moments.yx - prior @ moments.xx
    now = found
    for _ in range(ROUNDS):
        p = _computed(now, x) + rest
        moved = (clamp.nearest(y + rest, p) - rest - y).astype(np.float32)
        mean = moved.mean(axis=1, dtype=np.float64)
        cross = product(moved, x) / x.shape[1] - mean[:, :, None] * center[:, None, :]
        matrix = prior + (start + cross) @ inverse
        target = moments.y + mean
        offsets = target - np.einsum("goi,gi->go", matrix, moments.x)
        now = replace(found, matrix=matrix, offsets=offsets)
        error = _error(now, clamp, test)
        if error >= least:
            break
        best, least = now, error
    return best


def _computed(fit: Fit, x: np.ndarray) -> np.ndarray:
    matrix = fit.matrix.astype(np.float32).transpose(0, 2, 1)
    return np.asarray(np.matmul(x, matrix) + fit.offsets[:, None, :].astype(np.float32))


def _error(fit: Fit, clamp: Clamp, rows: list[np.ndarray]) -> float:
    """Return the mean squared error behind the activation."""
    x, y, rest = rows
    difference = clamp(_computed(fit, x) + rest) - clamp(y + rest)
    return float(np.mean(np.square(difference, dtype=np.float64)))

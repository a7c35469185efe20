"""Optimal brain surgeon for channels: which to remove next, and what that costs.

A consumer computes W x. With H = S + lambda I (S the second moments of x) and M = H^-1, taking the
columns J of one channel out of the inputs, with all others free to make up for it, costs

    tr(W_J (M_JJ)^-1 W_J^T),   and leaves   W - W_J (M_JJ)^-1 M_J,   M - M_J^T (M_JJ)^-1 M_J.

The cheapest channel over all consumers is removed, again and again: one run gives an order that
nests, and the error at every width (Hassibi and Stork 1993; ZipLM, Kurtic et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.least_squares import damp

if TYPE_CHECKING:
    from collections.abc import Sequence

RIDGE = 1e-2
"""Multiple of the mean variance that is added to H's diagonal."""

STEPS = 64
"""Most rounds; of groups with more channels several go in one round."""


@dataclass(frozen=True)
class Reader:
    """One consumer of a group.

    Attributes:
        matrix: W, (outputs, columns).
        second: S, (columns, columns): covariance of the inputs where the consumer has a bias to
            make up for their mean, else their second moments about zero.
        channels: (n,) which channels of the group it reads; each at most once.
        columns: (n, k) the columns of each of them.
        power: What its error is measured against: the variance of the tensor that its output
            enters, summed over the channels.
    """

    matrix: np.ndarray
    second: np.ndarray
    channels: np.ndarray
    columns: np.ndarray
    power: float


@dataclass(frozen=True)
class Ranking:
    """The order in which the channels of a group go.

    Attributes:
        order: (channels,) which goes first, second, ...
        errors: (channels + 1,) the error once that many have gone: the sum over the consumers of
            squared error / power. Rises from 0.
    """

    order: np.ndarray
    errors: np.ndarray

    def kept(self, width: int) -> np.ndarray:
        """Return the indices that stay at a width, ascending."""
        return np.sort(self.order[len(self.order) - width :])


def rank(readers: Sequence[Reader], channels: int, ridge: float = RIDGE, least: int = 1) -> Ranking:
    """Rank the channels of a group by greedy removal with updates.

    Args:
        readers: All consumers.
        channels: How many channels the group has.
        ridge: Multiple of the mean variance on H's diagonal.
        least: Stop there: the channels that are left come last, by their cost at that point.

    Returns:
        The order and the error at every width.
    """
    states = [_State(reader, ridge) for reader in readers]
    alive = np.ones(channels, bool)
    order: list[int] = []
    errors = [0.0]
    while len(order) < channels:
        left = channels - len(order)
        costs = np.zeros(channels)
        for state in states:
            state.add_costs(costs)
        costs[~alive] = np.inf
        batch = left if left <= least else min(max(1, -(-left // STEPS)), left - least)
        chosen = np.argsort(costs, kind="stable")[:batch]
        for channel in chosen:
            order.append(int(channel))
            errors.append(errors[-1] + float(costs[channel]))
        alive[chosen] = False
        for state in states:
            state.remove(chosen)
    return Ranking(np.array(order, np.int64), np.array(errors))


class _State:
    """A consumer while channels of its inputs go."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        second = np.asarray(reader.second, np.float64)
        self._w = reader.matrix.astype(np.float64)
        self._m = np.linalg.inv(damp(second[None], ridge)[0])
        self._columns = reader.columns.copy()
        self._channels = reader.channels.copy()
        self._scale = 1 / reader.power if reader.power > 0 else 0.0

    def _corners(self) -> np.ndarray:
        return np.linalg.inv(self._m[self._columns[:, :, None], self._columns[:, None, :]])

    def add_costs(self, costs: np.ndarray) -> None:
        """Add what it would cost to remove each channel."""
        if not len(self._channels):
            return
        blocks = self._w[:, self._columns].transpose(1, 0, 2)  # (n, outputs, k)
        found = np.einsum("nok,nkl,nol->n", blocks, self._corners(), blocks, optimize=True)
        costs[self._channels] += self._scale * np.maximum(found, 0)

    def remove(self, chosen: np.ndarray) -> None:
        """Take channels out and let the others make up for them."""
        gone = np.isin(self._channels, chosen)
        if not gone.any():
            return
        j = self._columns[gone].reshape(-1)
        rest = np.delete(np.arange(len(self._m)), j)
        solved = np.linalg.solve(self._m[np.ix_(j, j)], self._m[np.ix_(j, rest)])
        self._w = self._w[:, rest] - self._w[:, j] @ solved
        self._m = self._m[np.ix_(rest, rest)] - self._m[np.ix_(rest, j)] @ solved
        place = np.full(len(rest) + len(j), -1)
        place[rest] = np.arange(len(rest))
        self._columns = place[self._columns[~gone]]
        self._channels = self._channels[~gone]

"""How often a disturbed classifier changes its mind, foreseen from few samples.

A flip of the largest class is rare: of 50 samples none may flip where 3 of 100 do. But every sample
tells how far it is from flipping (its margin), and how much its margin was disturbed. Pairing all
margins with all disturbances, as if they were independent, gives n^2 samples of what may happen:

    drop = mean over i, j of cost_i [margin_i + change_j < 0]

    margin   log p(top) - log p(next) of the source
    change   the candidate's margin between the source's top class and the best other one, less it
    cost     p(top) - p(next): what expected accuracy loses by that flip
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import readout

if TYPE_CHECKING:
    from onnxopt.parity import Outputs

FLOOR = 1e-12
"""Smallest probability, to take the logarithm of."""

CAUTION = 0.5
"""Share of the run's drop that a lossy pass may use up on the samples that it chooses on: on others
the model loses more or less, and later passes need their part."""

MOST_ROWS = 4096
"""Rows that are paired, the first ones: a drop is then known to a few millionths."""


class Margins:
    """Collects rows of class scores of a source and of a candidate."""

    def __init__(self) -> None:
        self._margins: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._costs: list[np.ndarray] = []
        self._rows = 0

    def add(self, wanted: Outputs, found: Outputs) -> None:
        """Take in one sample; outputs without class scores say nothing."""
        p, q = (readout.class_probabilities(outputs) for outputs in (wanted, found))
        if p is None or q is None or p.shape != q.shape or p.ndim != 2 or self._rows >= MOST_ROWS:
            return
        top = p.argmax(-1)
        rows = np.arange(len(p))
        ours, theirs = (np.log(np.maximum(x, FLOOR)) for x in (p, q))
        margins = [logs[rows, top] - _others(logs, top).max(-1) for logs in (ours, theirs)]
        self._margins.append(margins[0])
        self._changes.append(margins[1] - margins[0])
        self._costs.append(p[rows, top] - _others(p, top).max(-1))
        self._rows += len(p)

    def drop(self) -> float:
        """Return the fall of expected accuracy to be foreseen; 0 where nothing was taken in."""
        if not self._rows:
            return 0.0
        margins, changes, costs = (
            np.concatenate(part) for part in (self._margins, self._changes, self._costs)
        )
        order = np.sort(changes)
        flips = np.searchsorted(order, -margins, side="left") / len(order)
        return float(np.mean(costs * flips))


def _others(values: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return a copy with the top class of each row out of the running."""
    rest = values.copy()
    rest[np.arange(len(rest)), top] = -np.inf
    return np.asarray(rest)

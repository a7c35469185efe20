"""How often a disturbed classifier changes its mind, foreseen from few samples.

A flip of the largest class is rare: of 50 samples none may flip where 3 of 100 do. But every sample
tells how far it is from flipping (its margin), and how much its margin was disturbed. Pairing all
margins with all disturbances, as if they were independent, gives n^2 samples of what may happen:

    drop = mean over i, j of cost_i [margin_i + change_j < 0]

    margin   log p(top) - log p(next) of the source
    change   the candidate's margin between the source's top class and the best other one, less it
    cost     p(top) - p(next): what expected accuracy loses by that flip

Of lines, rows are steps, many of each size. Logarithms of sure ones are disturbed more, so a
margin is paired with the disturbances of the `NEAR` rows of nearest margins. Where one class
stands for nothing and a line is right as a whole, a line loses what its steps lose together. Flips
that leave what is read as it is cost nothing, and are no disturbance: a symbol that moves by a step
turns two margins that were as sure as any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import readout, sequences
from onnxopt.parity import flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.parity import Outputs

FLOOR = 1e-12
"""Smallest probability, to take the logarithm of."""

CAUTION = 0.5
"""Share of the run's drop that a lossy pass may use up on the samples that it chooses on: on others
the model loses more or less, and later passes need their part."""

FORESEEN = ("accuracy", "expected-accuracy", "logits")
"""Metrics whose fall margins foresee: by rows of class scores, for `logits` by steps of lines."""

NEAR = 100
"""Rows of like margins that a step is paired with."""

MOST_ROWS = 4096
"""Rows that are paired, the first ones: a drop is then known to a few millionths."""


class Margins:
    """Collects rows of class scores of a source and of a candidate.

    Args:
        metric: What the run is scored by; one that is not of `FORESEEN` foresees nothing.
    """

    def __init__(self, metric: str = "expected-accuracy") -> None:
        self._foresees, self._lines = metric in FORESEEN, metric == "logits"
        self._margins: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._costs: list[np.ndarray] = []
        self._lengths: list[int] = []
        self._rows = 0

    def add(self, wanted: Outputs, found: Outputs) -> None:
        """Take in one sample; outputs without class scores say nothing."""
        if not self._foresees or self._rows >= MOST_ROWS:
            return
        if not self._lines:
            self._add(*(readout.class_probabilities(outputs) for outputs in (wanted, found)))
            return
        for p, q in _lines(wanted, found):
            self._add(p, q)
            blank = sequences.blank_of(p.argmax(-1), p.shape[1])
            self._lengths.append(1 if blank is None else len(p))
            if blank is None:
                continue
            self._costs[-1][sequences.harmless(p, blank)] = 0.0
            one, other = (sequences.reading(x.argmax(-1), blank) for x in (p, q))
            if np.array_equal(one, other):
                moved = self._margins[-1] + self._changes[-1] < 0
                self._changes[-1][moved] = 0.0

    def _add(self, p: np.ndarray | None, q: np.ndarray | None) -> None:
        if p is None or q is None or p.shape != q.shape or p.ndim != 2:
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
        """Return the fall of expected accuracy, or of lines that are right, that is to be foreseen.

        0 where nothing was taken in.
        """
        if not self._rows:
            return 0.0
        margins, changes, costs = (
            np.concatenate(part) for part in (self._margins, self._changes, self._costs)
        )
        if not self._lines:
            order = np.sort(changes)
            flips = np.searchsorted(order, -margins, side="left") / len(order)
            return float(np.mean(costs * flips))
        lost = float(np.mean(costs * _flips_nearby(margins, changes)))
        return min(float(np.mean(self._lengths)) * lost, 1.0)


def _flips_nearby(margins: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return how often each row flips by the disturbances of rows of like margins, (rows,)."""
    order = np.argsort(margins, kind="stable")
    size = min(NEAR, len(order))
    windows = np.lib.stride_tricks.sliding_window_view(changes[order], size)
    places = np.clip(np.arange(len(order)) - size // 2, 0, len(windows) - 1)
    flips = np.empty(len(order))
    flips[order] = np.mean(windows[places] < -margins[order, None], axis=1)
    return flips


def _lines(wanted: Outputs, found: Outputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities of each line, (steps, classes), of both; none of another shape."""
    one = readout.steps(wanted)
    got = None if one is None else dict(flat(found)).get(one[0])
    if one is None or got is None or readout.lines(got).shape != one[1].shape:
        return
    for pair in zip(one[1], readout.lines(got), strict=True):
        p, q = (readout.probabilities(x.astype(np.float64)) for x in pair)
        yield p, q


def _others(values: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return a copy with the top class of each row out of the running."""
    rest = values.copy()
    rest[np.arange(len(rest)), top] = -np.inf
    return np.asarray(rest)

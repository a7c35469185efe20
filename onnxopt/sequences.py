"""How likely one reading of a sequence is beside another, by (steps, classes) of probabilities.

Where one class stands for nothing (the blank), runs of a class count once and blanks are dropped,
so that many paths read the same, and a symbol may come a step earlier without a change of what
is read (connectionist temporal classification, Graves et al. 2006):

    P(reading) = sum over paths that read so of product over steps of p_t(path_t)

summed by their forward recursion. The blank is the class that is the largest most often, if that is
the first or the last one, as recognizers of text and speech have it. Else each step says something,
and a reading is a path.
"""

from __future__ import annotations

import numpy as np

LEAST = 1e-30
"""The smallest probability, to take the logarithm of."""

SURE = 1e4
"""How much likelier one class is than another that is not going to replace it."""

LEAST_CHANCE = 0.25
"""Chance to be right that a reading is given at least: that of a long one is always small."""


def worth(p: np.ndarray, path: np.ndarray) -> float:
    """Return what a path is worth beside the likeliest one, by the chance of each to be right.

        1 - (1 - P(reading) / P(best reading)) max(P(best reading), LEAST_CHANCE)

    Args:
        p: Probabilities, float64 of shape (steps, classes).
        path: Classes, int64 of shape (steps,).

    Returns:
        1 for the same reading; less the more likely it is that a right one was lost.
    """
    best = p.argmax(-1)
    if np.array_equal(path, best):
        return 1.0
    logs = np.log(np.maximum(p, LEAST))
    blank = blank_of(best, p.shape[1])
    if blank is None:
        steps = np.arange(len(p))
        found, whole = (float(np.sum(logs[steps, x])) for x in (path, best))
    else:
        ours, theirs = reading(path, blank), reading(best, blank)
        if np.array_equal(ours, theirs):
            return 1.0
        found, whole = (log_probability(logs, x, blank) for x in (ours, theirs))
    lost = -np.expm1(min(found - whole, 0.0))
    return float(1 - lost * max(np.exp(whole), LEAST_CHANCE))


def blank_of(path: np.ndarray, classes: int) -> int | None:
    """Return the class that stands for nothing, None if none does."""
    most = int(np.bincount(path, minlength=classes).argmax())
    return most if most in (0, classes - 1) else None


def reading(path: np.ndarray, blank: int) -> np.ndarray:
    """Return a path with each run taken once, and without blanks."""
    starts = np.ones(len(path), bool)
    starts[1:] = path[1:] != path[:-1]
    found: np.ndarray = path[starts & (path != blank)]
    return found


def harmless(p: np.ndarray, blank: int) -> np.ndarray:
    """Return at which steps the second likeliest class reads as the likeliest does, bool (steps,).

    A symbol that comes a step earlier, or stays a step longer, is such a change. Steps where the
    first is `SURE` times as likely as the second, or more, are not looked at, and are not such.
    """
    best = p.argmax(-1)
    whole, found = reading(best, blank), np.zeros(len(p), bool)
    order = np.argsort(p, axis=-1)[:, -2:]
    pair = np.take_along_axis(p, order, -1)
    for step in np.flatnonzero(pair[:, 1] < SURE * pair[:, 0]):
        path = best.copy()
        path[step] = order[step, 0]
        found[step] = np.array_equal(reading(path, blank), whole)
    return found


def log_probability(logs: np.ndarray, symbols: np.ndarray, blank: int) -> float:
    """Return the logarithm of the probability of all paths that read as given symbols.

    Args:
        logs: Logarithms of probabilities, (steps, classes).
        symbols: What is read, no more symbols than steps.
        blank: The class that stands for nothing.
    """
    states = np.full(2 * len(symbols) + 1, blank)
    states[1::2] = symbols
    skips = np.zeros(len(states), bool)  # whether the blank before a state can be left out
    skips[2:] = (states[2:] != blank) & (states[2:] != states[:-2])
    sums = np.full(len(states), -np.inf)
    sums[:2] = logs[0, states[:2]]
    for row in logs[1:]:
        stay, step = sums, np.concatenate(([-np.inf], sums[:-1]))
        jump = np.where(skips, np.concatenate(([-np.inf, -np.inf], sums))[: len(sums)], -np.inf)
        sums = np.logaddexp(np.logaddexp(stay, step), jump) + row[states]
    return float(np.logaddexp.reduce(sums[-2:]))

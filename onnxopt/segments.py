"""How well one map of classes covers another, by (batch, classes, height, width) of scores.

The source's own probabilities p stand for the truth, so that a place where two classes are nearly
as likely costs next to nothing. Of class c, with S the places that a model gives to it:

    IoU_c = sum over S of p_c / (|S| + sum over all places of p_c - sum over S of p_c)

and the score of a map is the mean over classes, each weighed by min(1, its share of the source's
map / SMALL): mean intersection over union, in which a few places of a rare class do not decide.
"""

from __future__ import annotations

import numpy as np

SMALL = 0.01
"""Share of a map below which a class weighs less."""


def lost(want: np.ndarray, got: np.ndarray) -> float:
    """Return by how much the expected IoU falls, the mean over the batch; negative where it rises.

    Args:
        want: The source's scores, float of shape (batch, classes, ...): probabilities, or what
            becomes some by softmax.
        got: Another model's; of another shape it covers nothing.
    """
    if want.shape != got.shape:
        return 1.0
    return float(np.mean([_lost(a, b) for a, b in zip(want, got, strict=True)]))


def _lost(want: np.ndarray, got: np.ndarray) -> float:
    scores, others = (x.reshape(len(x), -1) for x in (want, got))
    ours, theirs = scores.argmax(0), others.argmax(0)
    if np.array_equal(ours, theirs):
        return 0.0
    masses, hits = _probabilities(scores, (ours, theirs))
    weights = np.minimum(np.bincount(ours, minlength=len(want)) / (SMALL * len(ours)), 1)
    found = [
        float(weights @ _iou(path, masses, hit))
        for path, hit in zip((ours, theirs), hits, strict=True)
    ]
    return (found[0] - found[1]) / float(weights.sum())


def _iou(path: np.ndarray, masses: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Return the IoU of each class, 0 for those that are nowhere."""
    inside = np.bincount(path, hit, len(masses))
    union = np.bincount(path, minlength=len(masses)) + masses - inside
    return np.asarray(np.divide(inside, union, out=np.zeros_like(inside), where=union > 0))


def _probabilities(
    scores: np.ndarray, paths: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the sum of each class's probabilities, and those at the classes of each path.

    Class by class, as maps are large.

    Args:
        scores: (classes, places).
        paths: A class a place.
    """
    places = np.arange(scores.shape[1])
    if (scores >= 0).all() and np.allclose(scores.sum(0), 1, atol=1e-3):
        return scores.sum(1, dtype=np.float64), [scores[path, places] for path in paths]
    top = scores.max(0)
    whole = np.zeros(len(places))
    for row in scores:
        whole += np.exp(row - top)
    masses = np.array([np.sum(np.exp(row - top) / whole) for row in scores])
    return masses, [np.exp(scores[path, places] - top) / whole for path in paths]

"""What outputs are: class scores, embeddings, readings step by step, or boxes with scores."""

from __future__ import annotations

import numpy as np

from onnxopt import detections, sequences
from onnxopt.parity import Outputs, flat, is_float

MOST_CLASSES = 100_000

WIDTH = 64
"""Embeddings have a multiple of it, and numbers of classes hardly ever; fewer are classes."""

FLAT = 0.05
"""The largest probability of a row, in the mean, below which there is no class to speak of."""

MOST_STEPS = 2048
"""Rows of probabilities that are taken for one sequence; more are places of a map, or anchors."""


def class_scores(outputs: Outputs) -> np.ndarray | None:
    """Return the first output of shape (rows, classes), an embedding only if there is no other."""
    found = [
        value
        for _, value in flat(outputs)
        if is_float(value) and value.ndim == 2 and 2 <= value.shape[1] <= MOST_CLASSES
    ]
    return next((v for v in found if not embedded(v)), next(iter(found), None))


def embedded(values: np.ndarray) -> bool:
    """Whether rows are embeddings: of length 1, or as wide as layers are and classes are not.

    Rows of probabilities, or of logarithms of some, are none.
    """
    if distributed(values[None]) or values.shape[1] < WIDTH:
        return False
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    return values.shape[1] % WIDTH == 0 or bool(np.allclose(lengths, 1, atol=1e-3))


def undecided(scores: np.ndarray) -> bool:
    """Whether no class stands out, so that flips cost nothing: then these are no scores of any."""
    if scores.shape[1] < WIDTH or not scores.size:
        return False
    return bool(probabilities(scores.astype(np.float64)).max(-1).mean() < FLAT)


def class_probabilities(outputs: Outputs) -> np.ndarray | None:
    """Return the probabilities of the output of shape (rows, classes), None if there is none.

    Scores that are no probabilities go through softmax.
    """
    found = class_scores(outputs)
    return None if found is None or embedded(found) else probabilities(found.astype(np.float64))


def table(outputs: Outputs) -> tuple[str, np.ndarray] | None:
    """Return the first output that joins boxes and scores."""
    return next(((n, v) for n, v in flat(outputs) if detections.layout(v) is not None), None)


def steps(outputs: Outputs) -> tuple[str, np.ndarray] | None:
    """Return the output of shape (batch, steps, classes), the first with probabilities if any."""
    found = [
        (name, value)
        for name, value in flat(outputs)
        if is_float(value)
        and value.ndim == 3
        and value.shape[1] <= MOST_STEPS
        and 2 <= value.shape[2] <= MOST_CLASSES
    ]
    sure = next((pair for pair in found if distributed(pair[1])), None)
    return sure or next(iter(found), None)


def distributed(values: np.ndarray) -> bool:
    """Whether values are probabilities along the last of three axes, or logarithms of some."""
    if not is_float(values) or values.ndim != 3 or not values.size:
        return False
    if (values >= 0).all():
        return bool(np.allclose(values.sum(-1, dtype=np.float64), 1, atol=1e-3))
    if (values <= 0).all():
        return bool(np.allclose(np.exp(values.astype(np.float64)).sum(-1), 1, atol=1e-3))
    return False


def logarithms(values: np.ndarray) -> np.ndarray:
    """Return the logarithms of what `distributed` says yes to."""
    if (values <= 0).all():
        return values
    return np.asarray(np.log(np.maximum(values, sequences.LEAST)))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return scores that are probabilities as they are, others through softmax."""
    if (scores >= 0).all() and np.allclose(scores.sum(-1), 1, atol=1e-3):
        return scores
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))

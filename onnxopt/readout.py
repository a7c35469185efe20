"""What outputs are: class scores, embeddings, readings step by step, maps, or boxes with scores.

Names say nothing, so values have to. Scores of classes before softmax (logits) are told from
coordinates, images and features by what training leaves in them: the gradient of cross entropy
p - target sums to zero over classes, and so does that of any function of softmax, so that the mean
of a row stays near zero where its spread grows; and a class stands out in most rows.
"""

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

VOCABULARY = 8192
"""Width beyond which rows that are not flat are scores of classes: no layer is so wide. Heads that
share their matrix with an embedding need not be centred."""

CENTRED = 0.1
"""Largest square of a row's mean, as a share of its variance, the mean of both over rows. Numbers
that know nothing of each other have 1 / (width - 1)."""

DECIDED = 0.5
"""Least of the mean of each row's largest probability."""

PLACES = 4096
"""Places of a map that are looked at, about."""

MOST_KINDS = 1024
"""Classes of a map, at most."""


def class_scores(outputs: Outputs) -> np.ndarray | None:
    """Return the first output of shape (rows, classes), an embedding only if there is no other.

    (rows, classes, 1, 1), as convolutions in the place of a last layer have it, is the same.
    """
    found = [
        value.reshape(value.shape[:2])
        for _, value in flat(outputs)
        if is_float(value)
        and value.ndim in (2, 4)
        and value.shape[2:] in ((), (1, 1))
        and 2 <= value.shape[1] <= MOST_CLASSES
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
    """Whether no class stands out, so that flips cost nothing: then these are no scores of any.

    Numbers of 0 to 1 that do not sum to one are such too: labels that may hold together, or one
    probability a moment.
    """
    if not scores.size or distributed(scores[None]):
        return False
    if ((scores >= 0) & (scores <= 1)).all():
        return True
    if scores.shape[1] < WIDTH:
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
    """Return the output of shape (batch, steps, classes), the one most sure to be one first.

    Its first two axes are swapped where it has them so: see `lines`.
    """
    found = [
        (name, lines(value))
        for name, value in flat(outputs)
        if is_float(value)
        and value.ndim == 3
        and lines(value).shape[1] <= MOST_STEPS
        and 2 <= value.shape[2] <= MOST_CLASSES
    ]
    for sure in (distributed, logits) if len(found) > 1 else ():
        for name, value in found:
            if sure(value):
                return name, value
    return next(iter(found), None)


def lines(values: np.ndarray) -> np.ndarray:
    """Return (steps, 1, classes), as recurrent nets have it, as (1, steps, classes)."""
    return values.swapaxes(0, 1) if values.ndim == 3 and values.shape[1] == 1 else values


def maps(outputs: Outputs) -> tuple[str, np.ndarray] | None:
    """Return the first output of shape (batch, classes, height, width), known by its values."""
    for name, value in flat(outputs):
        if is_float(value) and value.ndim == 4 and 2 <= value.shape[1] <= MOST_KINDS:
            places = value.reshape(*value.shape[:2], -1)
            step = max(places.shape[2] // PLACES, 1)
            rows = np.moveaxis(places[..., ::step], 1, -1).reshape(1, -1, value.shape[1])
            if min(value.shape[2:]) > 1 and (distributed(rows) or logits(rows)):
                return name, value
    return None


def logits(values: np.ndarray) -> bool:
    """Whether values are scores of classes along the last axis that softmax has still to pass.

    As wide as layers are and numbers of classes are not, they are no classes.
    """
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    width = rows.shape[1]
    if not rows.size or width < 2 or not np.isfinite(rows).all():
        return False
    sure = probabilities(rows).max(-1).mean()
    if width > VOCABULARY:
        return bool(sure >= FLAT and not (rows >= 0).all(-1).any())
    if width % WIDTH == 0 or sure < DECIDED:
        return False
    return bool(np.mean(rows.mean(-1) ** 2) <= CENTRED * np.mean(rows.var(-1)))


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

"""Scores that lossy passes are held to: higher is better, one score a sample."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import marshal
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt import detections, readout, segments, sequences
from onnxopt.errors import SpecError
from onnxopt.parity import Outputs, flat, is_float

Score = Callable[[Outputs, Outputs, "np.ndarray | None"], float]
"""(outputs, outputs of the source model, label) -> score of one sample."""


@dataclass(frozen=True)
class Metric:
    """A score and how it is called."""

    name: str
    score: Score


def accuracy(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """Share of rows whose largest class score is at the label."""
    best = _scores(outputs).argmax(-1)
    return float(np.mean(best.reshape(-1) == np.asarray(label).reshape(-1)))


def expected_accuracy(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """Accuracy to expect if the source's own probabilities are right.

    The mean over rows of p(argmax of the outputs), p the source's probabilities: a flip between
    near ties costs next to nothing, one against a certain class costs it all.
    """
    p = readout.probabilities(_scores(reference))
    best = _scores(outputs).argmax(-1)
    return float(np.mean(np.take_along_axis(p, best[..., None], -1)))


def sequence(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """What the outputs read is worth, beside what the source reads (`sequences.worth`).

    The mean over the batch, by the source's own probabilities. A line of text is right as a whole
    or not at all, so one symbol that changes against a certain one costs all of it, however many
    steps are as they were; a change between near ties costs next to nothing.
    """
    p, paths = _paths(outputs, reference)
    if paths is None:
        return 0.0
    return float(np.mean([sequences.worth(*pair) for pair in zip(p, paths, strict=True)]))


def logits(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """1 less the most that is lost of three: classes step by step, what is read, and the cosine.

    For raw scores of shape (batch, steps, classes). Of classes it is the accuracy to be expected by
    the source's own probabilities. Only lines in which one class stands for nothing are read as a
    whole: where every step says something, a step counts as one.
    """
    p, paths = _paths(outputs, reference)
    if paths is None:
        return 0.0
    lost = [float(np.mean(p.max(-1) - np.take_along_axis(p, paths[..., None], -1)[..., 0]))]
    lost.append(1 - cosine(outputs, reference, label))
    whole = [
        1 - sequences.worth(line, path)
        for line, path in zip(p, paths, strict=True)
        if sequences.blank_of(line.argmax(-1), line.shape[1]) is not None
    ]
    lost.append(sum(whole) / len(p))
    return 1 - max(lost)


def segmented(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """1 less the most that is lost of two: the expected IoU of classes (`segments`), the cosine."""
    found = readout.maps(reference)
    if found is None:
        return cosine(outputs, reference, label)
    name, want = found
    got = dict(flat(outputs)).get(name)
    lost = 1.0 if got is None else segments.lost(want, got)
    return 1 - max(lost, 1 - cosine(outputs, reference, label))


def detected(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """Share of detections, by weight, that both have in common (`detections`)."""
    found = readout.table(reference)
    if found is None:
        raise SpecError("no output joins boxes and scores on some samples; name another metric")
    name, want = found
    got = dict(flat(outputs)).get(name)
    return 0.0 if got is None else detections.agreement(want, got)


def cosine(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """Mean over float outputs of the cosine with the source's.

    Zeros have no direction. Where the source returns them, or one number is 0 that is not in the
    other (a probability that one kernel rounds to 0, and another to 1e-9), a length of g beside 0
    scores 1 / sqrt(1 + g^2).
    """
    found = []
    for want, got in _pairs(outputs, reference):
        lengths = float(np.linalg.norm(want)), float(np.linalg.norm(got))
        if np.array_equal(want, got):
            found.append(1.0)
        elif all(lengths):
            found.append(float(want @ got / (lengths[0] * lengths[1])))
        elif not lengths[0] or want.size == 1:
            found.append(1 / float(np.hypot(1, max(lengths))))
        else:
            found.append(0.0)
    return float(np.mean(found)) if found else 1.0


def sqnr(outputs: Outputs, reference: Outputs, label: np.ndarray | None) -> float:
    """Mean over float outputs of 1 - noise power / signal power; 0.99 is 20 dB."""
    found = []
    for want, got in _pairs(outputs, reference):
        noise, signal = float(np.sum((got - want) ** 2)), float(np.sum(want**2))
        found.append(1.0 if noise == 0 else 1 - noise / signal if signal else 0.0)
    return float(np.mean(found)) if found else 1.0


FLIPS = ("accuracy", "expected-accuracy")
"""Metrics that change only where the largest class does."""

CAPPED = ("expected-accuracy", "sequence", "logits", "segments", "detections")
"""Metrics in which no sample scores higher than it does with the source itself."""

RARE = (*FLIPS, "sequence", "logits", "detections")
"""Metrics in which few samples lose, and those lose much."""

METRICS: dict[str, Score] = {
    "accuracy": accuracy,
    "expected-accuracy": expected_accuracy,
    "sequence": sequence,
    "logits": logits,
    "segments": segmented,
    "detections": detected,
    "cosine": cosine,
    "sqnr": sqnr,
}


def check(name: str | None) -> None:
    """Refuse a metric that does not exist, before any work.

    Raises:
        SpecError: It is neither built in nor an importable `module:function`.
    """
    if name is None or name in METRICS:
        return
    if ":" not in name:
        near = get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(METRICS)}"
        raise SpecError(f"no metric is named {name!r}; {hint} (or give module:function)")
    _imported(name)


def choose(name: str | None, outputs: Outputs, labelled: bool) -> Metric:
    """Return the metric called `name`, a `module:function`, or what fits the outputs.

    With labels and class scores (a float output of shape (rows, classes)): accuracy. With class
    scores alone: expected accuracy. Embeddings have that shape too: see `readout`. With
    probabilities of shape (batch, steps, classes), as recognizers of text and speech have them:
    sequence; with raw scores of that shape: logits. With boxes and scores in one output:
    detections. With maps of classes: segments. Else: cosine.

    Raises:
        SpecError: No metric has that name, or it needs labels and there are none.
    """
    if name is None:
        scores = readout.class_scores(outputs)
        doubtful = scores is not None and (readout.embedded(scores) or readout.undecided(scores))
        if scores is None or (doubtful and not labelled):
            fitting = _unnamed(outputs)
            return Metric(fitting, METRICS[fitting])
        chosen = "accuracy" if labelled else "expected-accuracy"
        return Metric(chosen, METRICS[chosen])
    if ":" in name:
        return Metric(name, _imported(name))
    check(name)
    if name == "accuracy" and not labelled:
        raise SpecError("metric 'accuracy' needs labels: put an array `labels` into the samples")
    if name in ("accuracy", "expected-accuracy") and readout.class_scores(outputs) is None:
        raise SpecError(f"metric {name!r} needs an output of shape (rows, classes); there is none")
    needed = {
        "sequence": (readout.steps, "of shape (batch, steps, classes)"),
        "logits": (readout.steps, "of shape (batch, steps, classes)"),
        "segments": (readout.maps, "with scores of shape (batch, classes, height, width)"),
        "detections": (readout.table, "that joins boxes in pixels and scores"),
    }
    find, words = needed.get(name, (None, ""))
    if find is not None and find(outputs) is None:
        raise SpecError(f"metric {name!r} needs an output {words}; there is none")
    return Metric(name, METRICS[name])


def fingerprint(name: str | None) -> str:
    """Return what a metric's scores depend on: its name, and the file of a function of a user's.

    Of a function without a file it is the code; what it imports is not looked at.

    Raises:
        SpecError: It cannot be imported.
    """
    if name is None or ":" not in name:
        return str(name)
    function = _imported(name)
    digest = hashlib.sha256(name.encode())
    try:
        digest.update(Path(inspect.getfile(function)).read_bytes())
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        digest.update(repr(function).encode() if code is None else marshal.dumps(code))
    return digest.hexdigest()


def _unnamed(outputs: Outputs) -> str:
    found = readout.steps(outputs)
    if found is not None and readout.distributed(found[1]):
        return "sequence"
    if readout.table(outputs) is not None:
        return "detections"
    if found is not None and readout.logits(found[1]):
        return "logits"
    return "cosine" if readout.maps(outputs) is None else "segments"


def _imported(name: str) -> Score:
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise SpecError(f"metric {name!r} cannot be imported: {e}") from e
    finally:
        sys.path.remove(os.getcwd())
    score: Score = found
    return score


def _paths(outputs: Outputs, reference: Outputs) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the source's probabilities (batch, steps, classes), and the classes of the outputs.

    The latter are int64 of shape (batch, steps), None where the output is missing or of another
    shape.
    """
    found = readout.steps(reference)
    if found is None:
        raise SpecError("no output has shape (batch, steps, classes) on some samples")
    name, scores = found
    p, got = readout.probabilities(scores.astype(np.float64)), dict(flat(outputs)).get(name)
    if got is None or readout.lines(got).shape != p.shape:
        return p, None
    return p, readout.lines(got).argmax(-1)


def _scores(outputs: Outputs) -> np.ndarray:
    found = readout.class_scores(outputs)
    if found is None:
        raise SpecError("no output has shape (rows, classes) on some samples; name another metric")
    return found.astype(np.float64)


def _pairs(outputs: Outputs, reference: Outputs) -> list[tuple[np.ndarray, np.ndarray]]:
    theirs = dict(flat(outputs))
    found = []
    for name, value in flat(reference):
        if is_float(value) and name in theirs and theirs[name].shape == value.shape:
            want, got = (v.astype(np.float64).reshape(-1) for v in (value, theirs[name]))
            finite = np.isfinite(want)
            if np.isfinite(got[finite]).all():
                found.append((want[finite], got[finite]))
                continue
        if is_float(value):
            found.append((np.ones(2), np.zeros(2)))  # nothing alike
    return found

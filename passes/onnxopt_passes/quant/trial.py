"""How good a quantized model is, on calibration samples that nothing was fitted to.

    noise = sum (y - y_source)^2 / sum y_source^2       over float outputs and samples
    drop  = fall of the run's metric

Noise is smooth and comparable between edits, and ranks them; the drop decides. Noise is taken on
few samples, a drop on as many as there is time for. Of probabilities of sequences the noise is that
of their logarithms: they themselves jump between 0 and 1 where a symbol comes a step earlier, which
says nothing of how much was disturbed. Boxes and scores that one output joins are looked at apart.

Where few samples lose and those lose much (classes, lines, detections), a plan that is chosen on
30 of them loses more on others: one line is 0.03. There drops are taken on the samples that were
fitted to as well. Fits move each number by thousands of rows, which says little of any one line.

Where there are no class scores, the metric is the mean cosine of the outputs, which is blind to
scale and lets a good output (a state) hide a bad one (a mask). There the drop is at least that of
the worst output by its noise over all samples: half of it, which is 1 - cosine where errors are
small.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import cost, detections, metrics, readout
from onnxopt.errors import SamplesError
from onnxopt.margins import Margins
from onnxopt.parity import flat, is_float
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.base import Context
    from onnxopt.metrics import Metric
    from onnxopt.model import Exported
    from onnxopt.parity import Outputs
    from onnxopt.samples import Samples
    from onnxopt.samples.base import Sample

CHECK_MACS = 1e10
"""Multiply-accumulates that one look at the noise may take, which sets how many samples it has."""

DROP_MACS = 1e11
"""The same for one look at the drop."""

LARGE = 1 << 24
"""Bytes of a model from which on it is worth the time to free the one before at once."""

LEAST_LOG = -14.0
"""Logarithms of probabilities below are not told apart."""

SPARSE = "detections"
"""The metric of outputs that are zero but for a few places, and on most samples for none: noise is
that of all samples together, and those with the most to detect come first."""

WATCHED = ("cosine", "detections", "logits", "segments")
"""Metrics beside which the worst output by its noise counts, where they were not asked for."""

FIT_MACS = 4e10
"""The same for fitting ranges."""

SHARE = 0.25
"""Part of the calibration samples that trials are made on."""


@dataclass(frozen=True)
class Found:
    """What a trial found.

    Attributes:
        noise: Relative squared error of the outputs; infinite where they are no numbers.
        drop: Fall of the metric; infinite where the model cannot be run.
    """

    noise: float
    drop: float


def parts(samples: Samples, source: Exported, seed: int) -> tuple[Samples, Samples]:
    """Split calibration samples into those to fit to and those to try on, few where a run is long.

    A single sample serves for both.
    """
    work = _work(source, next(iter(samples)).feed)
    fit, check = samples.split(SHARE, seed + 1)
    if not fit.count():
        fit = check
    return (
        fit.take(int(np.clip(FIT_MACS / work, 8, 200))),
        check.take(_most(work)),
    )


def _most(work: float) -> int:
    """Return how many samples a drop may be taken on, by the multiply-accumulates of one."""
    return int(np.clip(DROP_MACS / work, 4, 256))


def _work(source: Exported, feed: dict[str, np.ndarray]) -> float:
    """Return the multiply-accumulates of a run, a guess where they are not known."""
    return max(cost.measure(source, feed).macs or 10**8, 10**5)


class Trial:
    """Holds candidates against the source on some samples.

    Attributes:
        few: Samples that are enough to look at the noise.

    Args:
        source: The model before quantization.
        samples: What to run.
        ctx: Metric and session settings.
        fitted: Samples to take drops on too, where few lose.

    Raises:
        CannotRun: The source cannot be run.
        SamplesError: There are no samples.
    """

    def __init__(
        self, source: Exported, samples: Samples, ctx: Context, fitted: Samples | None = None
    ) -> None:
        self.settings = Settings(True, ctx.threads, ctx.custom_ops)
        self._kept = Spool()
        scores: list[float] = []
        seen: list[float] = []
        session = Session(source, self.settings)
        metric = None

        def keep(sample: Sample, metric: Metric, outputs: Outputs) -> None:
            self._kept.append((sample.feed, outputs, sample.label))
            scores.append(metric.score(outputs, outputs, sample.label))

        for sample in samples:
            outputs = session.run(sample.feed)
            if metric is None:
                metric = metrics.choose(ctx.metric, outputs, sample.label is not None)
            keep(sample, metric, outputs)
            seen.append(_seen(outputs) if metric.name == SPARSE else 0.0)
        if metric is None:
            raise SamplesError(f"{samples.source}: too few samples to try a quantized model on")
        self.metric = metric
        self._order = sorted(range(len(seen)), key=lambda i: -seen[i])
        self._own = len(seen)
        work = _work(source, self.feed)
        self.few = int(np.clip(CHECK_MACS / work, 4, 256))
        if fitted is not None and metric.name in metrics.RARE:
            for sample in fitted.take(_most(work) - self._own):
                keep(sample, metric, session.run(sample.feed))
        self._order += range(self._own, len(scores))
        self.scores = [scores[i] for i in self._order]
        self.unnamed = ctx.metric is None

    @property
    def feed(self) -> dict[str, np.ndarray]:
        """The first sample's inputs."""
        feed: dict[str, np.ndarray] = self._kept[self._order[0]][0]
        return feed

    def _samples(self, most: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield inputs, outputs of the source and label of the first samples, or of all."""
        return (self._kept[i] for i in self._order[:most])

    def _session(self, candidate: Exported) -> Session:
        """Load a candidate; those before it are rings of references that still hold weights."""
        if candidate.nbytes > LARGE:
            gc.collect()
        return Session(candidate, self.settings)

    def judge(self, candidate: Exported, most: int | None = None) -> Found:
        """Run a candidate on the first samples: `most` of them, or `few`."""
        found = _Sums(self)
        try:
            session = self._session(candidate)
            for feed, want, label in self._samples(min(most or self.few, self._own)):
                found.add(session.run(feed), want, label)
        except CannotRun:
            return Found(float("inf"), float("inf"))
        return Found(found.noise(), found.drop())

    def drop(self, candidate: Exported, limit: float = float("inf")) -> float:
        """Run a candidate on all samples, or until it is sure that the metric falls by more.

        Returns:
            The fall; where it is beyond the limit, at least so much.
        """
        found = _Sums(self, noisy=False)
        try:
            session = self._session(candidate)
            for feed, want, label in self._samples():
                found.add(session.run(feed), want, label)
                if self.metric.name in metrics.CAPPED and found.lost() > limit * len(self.scores):
                    return found.lost() / len(self.scores)
        except CannotRun:
            return float("inf")
        return found.drop()


class _Sums:
    """What is known of a candidate after some samples."""

    def __init__(self, trial: Trial, noisy: bool = True) -> None:
        self._trial, self._noisy = trial, noisy
        self._noise: list[float] = []
        self._scores: list[float] = []
        self._margins, self._summed = Margins(trial.metric.name), _Summed()
        self._sparse = trial.metric.name == SPARSE
        self._watched = trial.unnamed and trial.metric.name in WATCHED

    def add(self, got: Outputs, want: Outputs, label: np.ndarray | None) -> None:
        """Take in the next sample."""
        metric = self._trial.metric
        self._scores.append(metric.score(got, want, label))
        self._margins.add(want, got)
        if metric.name in ("sequence", SPARSE):
            want, got = _smooth(want, got, metric.name)
        if self._noisy and not self._sparse:
            self._noise.append(relative(want, got))
        if self._watched or self._sparse:
            self._summed.add(want, got)

    def noise(self) -> float:
        """Return the mean noise of outputs; where they are sparse it is that of all samples."""
        return float(np.mean((self._summed.noises() or [0.0]) if self._sparse else self._noise))

    def lost(self) -> float:
        """Return by how much the sum of scores fell."""
        return float(np.sum(self._trial.scores[: len(self._scores)]) - np.sum(self._scores))

    def drop(self) -> float:
        """Return by how much the mean score fell, or is foreseen to fall."""
        drop = max(self.lost() / len(self._scores), self._margins.drop())
        if not self._watched:
            return drop
        return max(drop, 0.5 * max(self._summed.noises(), default=0.0))


class _Summed:
    """Sums of squares of each float output, and of its errors."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}

    def add(self, want: Outputs, got: Outputs) -> None:
        """Take in one sample."""
        theirs = dict(flat(got))
        for name, value in flat(want):
            if not is_float(value) or theirs[name].shape != value.shape:
                continue
            x, y = (v.astype(np.float64) for v in (value, theirs[name]))
            seen = np.isfinite(x)
            x, y = x[seen], np.where(np.isfinite(y), y, np.inf)[seen]
            sums = np.array([np.sum((x - y) ** 2), np.sum(x**2)])
            self._sums[name] = self._sums.get(name, np.zeros(2)) + sums

    def noises(self) -> list[float]:
        """Return the noise of each output over all samples; outputs that are zero have none."""
        return [float(error / size) for error, size in self._sums.values() if size]


def _seen(outputs: Outputs) -> float:
    """Return the sum of the weights of what is detected."""
    found = readout.table(outputs)
    return 0.0 if found is None else detections.weight(found[1])


def _smooth(want: Outputs, got: Outputs, metric: str) -> tuple[Outputs, Outputs]:
    """Return both outputs in the form in which their noise tells most: see the module."""
    ours: Outputs = {}
    theirs: Outputs = {}
    others = dict(flat(got))
    for name, value in flat(want):
        anchors = detections.layout(value) if metric == SPARSE else None
        logs = metric == "sequence" and readout.distributed(value)
        for held, array in ((ours, value), (theirs, others[name])):
            if anchors is not None and array.shape == value.shape:
                parts = detections.apart(array, anchors)
                held.update({f"{name}.{part}": x for part, x in parts.items()})
            elif logs:
                held[name] = np.maximum(readout.logarithms(array), LEAST_LOG)
            else:
                held[name] = array
    return ours, theirs


def relative(want: Outputs, got: Outputs) -> float:
    """Return the squared error of float outputs by their squared size, the mean over outputs."""
    theirs = dict(flat(got))
    found = []
    for name, value in flat(want):
        if not is_float(value) or not value.size:
            continue
        x, y = (v.astype(np.float64).reshape(-1) for v in (value, theirs[name]))
        if x.shape != y.shape or not np.isfinite(y).all():
            return float("inf")
        x = np.where(np.isfinite(x), x, y)
        size = float(x @ x)
        error = float((x - y) @ (x - y))
        found.append(error / size if size else float(error > 0))
    return float(np.mean(found)) if found else 0.0

"""How good a quantized model is, on calibration samples that nothing was fitted to.

    noise = sum (y - y_source)^2 / sum y_source^2       over float outputs and samples
    drop  = fall of the run's metric

Noise is smooth and comparable between edits, and ranks them; the drop decides.

Where there are no class scores, the metric is the mean cosine of the outputs, which is blind to
scale and lets a good output (a state) hide a bad one (a mask). There the drop is at least that of
the worst output by its noise over all samples: half of it, which is 1 - cosine where errors are
small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import cost, metrics
from onnxopt.errors import SamplesError
from onnxopt.margins import Margins
from onnxopt.parity import flat, is_float
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.spool import Spool

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.parity import Outputs
    from onnxopt.samples import Samples

CHECK_MACS = 2e10
"""Multiply-accumulates that one trial may take, which sets how many samples it has."""

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
    first = next(iter(samples)).feed
    macs = max(cost.measure(source, first).macs or 10**8, 10**5)
    fit, check = samples.split(SHARE, seed + 1)
    if not fit.count():
        fit = check
    return (
        fit.take(int(np.clip(FIT_MACS / macs, 8, 200))),
        check.take(int(np.clip(CHECK_MACS / macs, 4, 256))),
    )


class Trial:
    """Holds candidates against the source on some samples.

    Args:
        source: The model before quantization.
        samples: What to run.
        ctx: Metric and session settings.

    Raises:
        CannotRun: The source cannot be run.
        SamplesError: There are no samples.
    """

    def __init__(self, source: Exported, samples: Samples, ctx: Context) -> None:
        self.settings = Settings(True, ctx.threads, ctx.custom_ops)
        self.kept = Spool()
        self.scores: list[float] = []
        session = Session(source, self.settings)
        metric = None
        for sample in samples:
            outputs = session.run(sample.feed)
            if metric is None:
                metric = metrics.choose(ctx.metric, outputs, sample.label is not None)
            self.kept.append((sample.feed, outputs, sample.label))
            self.scores.append(metric.score(outputs, outputs, sample.label))
        if metric is None:
            raise SamplesError(f"{samples.source}: too few samples to try a quantized model on")
        self.metric = metric
        self.unnamed = ctx.metric is None

    @property
    def feed(self) -> dict[str, np.ndarray]:
        """The first sample's inputs."""
        feed: dict[str, np.ndarray] = self.kept[0][0]
        return feed

    def judge(self, candidate: Exported, most: int | None = None) -> Found:
        """Run a candidate on the samples, or on the first few."""
        noise, scores, margins, worst = [], [], Margins(), _Worst()
        try:
            session = Session(candidate, self.settings)
            for number, (feed, want, label) in enumerate(self.kept):
                if number == most:
                    break
                got = session.run(feed)
                noise.append(relative(want, got))
                worst.add(want, got)
                scores.append(self.metric.score(got, want, label))
                if self.metric.name in metrics.FLIPS:
                    margins.add(want, got)
        except CannotRun:
            return Found(float("inf"), float("inf"))
        drop = float(np.mean(self.scores[: len(scores)]) - np.mean(scores))
        if self.unnamed and self.metric.name == "cosine":
            drop = max(drop, worst.drop())
        return Found(float(np.mean(noise)), max(drop, margins.drop()))


class _Worst:
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

    def drop(self) -> float:
        """Return half of the noise of the worst output."""
        found = [error / size for error, size in self._sums.values() if size]
        return 0.5 * float(max(found, default=0.0))


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

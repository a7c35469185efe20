"""How far a model's answers are from the uncut model's: for choices on samples set aside.

The divergence is smooth, so that a few hundred samples rank candidates: for class scores the mean
Kullback-Leibler divergence from the source's probabilities, for other float outputs the squared
difference as a share of the source's variance over the samples. The drop is in the metric that the
run is held to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import metrics, readout
from onnxopt.abreast import abreast
from onnxopt.margins import Margins
from onnxopt.parity import flat, is_float
from onnxopt.runtime import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnxopt.model import Model
    from onnxopt.parity import Outputs

FLOOR = 1e-9
"""Smallest probability, to take the logarithm of."""

TINY = 1e-30
"""Smallest variance, to divide by."""


DEPLOYED = Settings(optimize=True)
"""ORT_ENABLE_ALL: what users will see."""


@dataclass(frozen=True)
class Judgement:
    """What a model does on the samples set aside.

    Attributes:
        divergence: See the module; 0 for the source itself, infinite where it is not finite.
        drop: By how much the mean score falls, negative where it rises; of class scores at least
            what is to be foreseen (`onnxopt.margins`).
    """

    divergence: float
    drop: float


class Judge:
    """The source's answers on some samples, to compare others with.

    Args:
        source: The uncut model.
        feeds: Inputs of the samples, kept in memory with the outputs: a few hundred are enough.
        metric: What the run is scored by, as in `Context.metric`.
        settings: How models are loaded.

    Raises:
        CannotRun: The source cannot be run.
        SpecError: The metric does not fit its outputs, or needs labels.
    """

    def __init__(
        self,
        source: Model,
        feeds: Iterable[Mapping[str, Any]],
        metric: str | None = None,
        settings: Settings = DEPLOYED,
    ) -> None:
        self._settings = settings
        self._feeds = list(feeds)
        session = Session(source.export(), settings)
        self._wanted = list(abreast(session.run, self._feeds))
        first = self._wanted[0] if self._wanted else {}
        chosen = metrics.choose(metric, first, labelled=False)
        self._score, self._metric = chosen.score, chosen.name
        self._own = [self._score(want, want, None) for want in self._wanted]
        self._variances = _variances(self._wanted)

    def __len__(self) -> int:
        return len(self._feeds)

    def of(self, model: Model, most: int | None = None) -> Judgement:
        """Return how far a model is from the source.

        Args:
            model: What to judge.
            most: Of how many samples, about; None for all.

        Raises:
            CannotRun: The model cannot be run.
        """
        session = Session(model.export(), self._settings)
        divergences, drops, margins = [], [], Margins(self._metric)
        step = max(len(self._feeds) // most, 1) if most else 1
        rows = list(zip(self._feeds, self._wanted, self._own, strict=True))
        outcomes = abreast(session.run, [feed for feed, _, _ in rows[::step]])
        for (_, want, own), outputs in zip(rows[::step], outcomes, strict=True):
            divergences.append(self._divergence(outputs, want))
            drops.append(own - self._score(outputs, want, None))
            margins.add(want, outputs)
        mean = float(np.mean(divergences)) if divergences else 0.0
        drop = max(float(np.mean(drops)), margins.drop()) if drops else 0.0
        return Judgement(mean if np.isfinite(mean) else float("inf"), drop)

    def _divergence(self, outputs: Outputs, wanted: Outputs) -> float:
        p, q = (readout.class_probabilities(found) for found in (wanted, outputs))
        if p is not None and q is not None and p.shape == q.shape:
            logs = np.log(p + FLOOR) - np.log(q + FLOOR)
            return max(float(np.mean(np.sum(p * logs, axis=-1))), 0.0)
        theirs = dict(flat(outputs))
        found = [
            float(np.sum((theirs[name].astype(np.float64) - want) ** 2)) / self._variances[name]
            for name, want in flat(wanted)
            if is_float(want) and name in theirs and theirs[name].shape == want.shape
        ]
        return float(np.mean(found)) if found else 0.0


def _variances(wanted: list[Outputs]) -> dict[str, float]:
    """Return sum (y - mean)^2 of each float output, averaged over the samples."""
    sums: dict[str, np.ndarray] = {}
    for outputs in wanted:
        for name, value in flat(outputs):
            if is_float(value):
                y = value.astype(np.float64)
                power = np.array([y.size, y.sum(), (y**2).sum()])
                sums[name] = sums.get(name, 0.0) + power
    runs = max(len(wanted), 1)
    return {
        name: max(float(power - total**2 / max(size, 1)) / runs, TINY)
        for name, (size, total, power) in sums.items()
    }

"""The proof: is this model valid, does it load, is its interface the same, are its outputs?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import coverage, interval, metrics, trial
from onnxopt.errors import SamplesError
from onnxopt.margins import Margins
from onnxopt.parity import Tolerance
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.spool import Spool
from onnxopt.structure import complaint, interface_change

if TYPE_CHECKING:
    from onnxopt.interval import Verdict
    from onnxopt.metrics import Metric
    from onnxopt.model import Exported
    from onnxopt.parity import Outputs
    from onnxopt.samples import Samples

COMPARED = 16
"""Hold-out samples on which exact passes are compared output by output."""

SCORED = 1000
"""Hold-out samples on which lossy passes are scored, at most."""

DRAWN = 6
"""Synthetic samples where there are no others."""

DRAWS = 24
"""How many are drawn to find so many that the source runs on."""


@dataclass(frozen=True)
class Failure:
    """Why a model may not go on.

    Attributes:
        kind: `raised`, `lied`, `invalid`, `interface`, `load`, `parity` or `budget`.
        message: In words.
        focus: (optimized, sample) that showed it; a bisection looks there first.
    """

    kind: str
    message: str
    focus: tuple[bool, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        drift: The largest drift of any output at any level; None where nothing could be run.
        verdict: The score; None for exact passes.
        failure: None if the model holds.
    """

    drift: float | None = None
    verdict: Verdict | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Terms:
    """What a proof is held to.

    Attributes:
        max_drop: How far the score may fall over the whole run.
        metric: Name of a metric, `module:function`, or None to choose by the outputs.
        threads: Threads of onnxruntime.
        custom_ops: Libraries of custom operators.
        seed: Seeds the drawing of synthetic inputs.
        upper_bound: Hold the upper end of the drop's interval to `max_drop`, not its mean.
    """

    max_drop: float = 0.01
    metric: str | None = None
    threads: int = 1
    custom_ops: tuple[str, ...] = ()
    seed: int = 0
    upper_bound: bool = False

    def settings(self, optimize: bool, lean: bool = False) -> Settings:
        """Return how to load a model."""
        return Settings(optimize, self.threads, self.custom_ops, lean)


@dataclass
class Proof:
    """Holds candidates against a source model.

    Attributes:
        source: The model as it was given.
        holdout: Samples that no pass has seen; None to draw synthetic ones.
        terms: What is promised.
        unproven: Why nothing can be compared; empty if outputs are.
        unreached: Paths of If branches that no input made run.
        drawn: How many inputs were drawn to reach branches that no sample reaches.
        tolerance: How far exact passes may go from what they are compared with at present.
        noise: The same of the source, whatever lossy passes have made since.
    """

    source: Exported
    holdout: Samples | None
    terms: Terms
    unproven: str = ""
    unreached: tuple[str, ...] = ()
    drawn: int = 0
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        self.synthetic = self.holdout is None or self.holdout.synthetic
        self.strict = complaint(self.source) is None
        self._feeds = Spool()
        self._reference = Spool()
        self._scored: _Scores | None = None
        try:
            self._collect()
        except CannotRun as e:
            self.unproven = f"onnxruntime cannot run the source: {e}"
        if not self.unproven:
            self._record(self.source)
            self._reach()
        self.noise = self.tolerance

    @property
    def samples(self) -> int:
        """How many inputs outputs are compared on."""
        return 0 if self.unproven else len(self._feeds)

    def feed(self, number: int) -> dict[str, Any] | None:
        """Return the inputs of one sample that outputs are compared on; None if there are none."""
        return self._feeds[number] if self.samples else None

    def first_feed(self) -> dict[str, Any] | None:
        """Return one set of inputs that the source runs on; None if there is none."""
        return self.feed(0)

    def _collect(self) -> None:
        """Run the source on the samples, and keep the feeds.

        Raises:
            CannotRun: The source cannot be loaded.
            SamplesError: It cannot be run on a real sample.
        """
        settings = self.terms.settings(False, lean=True)
        session = Session(self.source, settings)
        if self.holdout is None:
            try:
                samples = trial.drawn(self.source, settings, seed=self.terms.seed, n=DRAWS)
            except SamplesError as e:
                self.unproven = str(e)
                return
        else:
            samples = self.holdout.take(COMPARED)
        trouble = ""
        for number, sample in enumerate(samples):
            if samples.synthetic and len(self._feeds) == DRAWN:
                break
            try:
                session.run(sample.feed)
            except CannotRun as e:
                if not samples.synthetic:
                    where = f"{samples.source}: hold-out sample {number}"
                    raise SamplesError(f"{where} cannot be run by the model: {e}") from e
                trouble = str(e)
            else:
                self._feeds.append(sample.feed)
        if not len(self._feeds):
            self.unproven = f"the source runs on no input that could be drawn: {trouble}"

    def _record(self, model: Exported) -> None:
        """Make a model the reference: its outputs as it is written, and its noise floor."""
        self._reference = Spool()
        self.tolerance = Tolerance()
        session = Session(model, self.terms.settings(False, lean=True))
        for i, feed in enumerate(self._feeds):
            outputs = session.run(feed)
            self._reference.append(outputs)
            if i == 0:
                self.tolerance.learn_random(outputs, session.run(feed))
        del session
        try:
            session = Session(model, self.terms.settings(True))
            for feed, outputs in zip(self._feeds, self._reference, strict=True):
                self.tolerance.learn(outputs, session.run(feed))
        except CannotRun as e:
            self.unproven = f"onnxruntime runs the source only without its optimizations: {e}"

    def _reach(self) -> None:
        """Find the branches that the samples reach, and draw inputs for those they do not."""
        probe = coverage.Probe(self.source)
        if not probe.branches or self.unproven:
            return
        try:
            session = Session(probe.exported, self.terms.settings(False, lean=True))
            reached: set[str] = set()
            for feed in self._feeds:
                reached |= probe.reached(session.run(feed))
        except CannotRun:
            self.unreached = probe.branches
            return
        missing = set(probe.branches) - reached
        bases = [self._feeds[i] for i in range(min(2, len(self._feeds)))]
        for feed, found in coverage.search(session, probe, bases, self.source.inputs):
            if not missing:
                break
            if found & missing:
                missing -= found
                self._feeds.append(feed)
                self.drawn += 1
        self.unreached = tuple(b for b in probe.branches if b in missing)
        if self.drawn:
            self._record(self.source)

    def rebase(self, model: Exported) -> None:
        """Make the result of a lossy pass what later exact passes are compared with."""
        if not self.unproven:
            self._record(model)

    def check(self, model: Exported, exact: bool, focus: tuple[bool, int] | None = None) -> Outcome:
        """Check one candidate.

        Args:
            model: The candidate.
            exact: Compare outputs with the reference; else score them against the source.
            focus: Look only at one level and sample: enough to follow one known failure.
        """
        failure = self._structure(model)
        if failure is not None or self.unproven:
            return Outcome(failure=failure)
        worst, verdict = 0.0, None
        for optimized in (False, True) if focus is None else (focus[0],):
            try:
                session = Session(model, self.terms.settings(optimized, lean=not optimized))
            except CannotRun as e:
                return Outcome(failure=Failure("load", f"onnxruntime refuses it: {e}"))
            drift, failure = self._compare(session, optimized, exact, focus)
            worst = max(worst, drift)
            if failure is not None:
                return Outcome(worst, failure=failure)
        if not exact and focus is None:
            verdict = self.score(model)
            breach = verdict.breach(self.terms.max_drop, self.terms.upper_bound)
            if breach:
                failure = Failure("budget", f"{verdict.metric} {breach}")
        return Outcome(worst, verdict, failure)

    def _structure(self, model: Exported) -> Failure | None:
        changed = interface_change(self.source, model)
        if changed:
            return Failure("interface", changed)
        trouble = complaint(model) if self.strict else None
        return Failure("invalid", trouble) if trouble else None

    def _compare(
        self, session: Session, optimized: bool, exact: bool, focus: tuple[bool, int] | None
    ) -> tuple[float, Failure | None]:
        level = "with onnxruntime's optimizations" if optimized else "as it is written"
        worst = 0.0
        for i in range(len(self._feeds)) if focus is None else (focus[1],):
            where = (optimized, i)
            try:
                got: Outputs = session.run(self._feeds[i])
            except CannotRun as e:
                return worst, Failure("load", f"it fails on sample {i}, run {level}: {e}", where)
            drift, guilty = self.tolerance.breach(self._reference[i], got)
            if np.isfinite(drift) or exact:
                worst = max(worst, drift)
            if exact and guilty is not None:
                message = f"output {guilty.output!r} {guilty.why} on sample {i}, run {level}"
                return worst, Failure("parity", message, where)
        return worst, None

    def score(self, model: Exported) -> Verdict:
        """Score a model on the hold-out, as deployed, against the source."""
        if self._scored is None:
            samples = self.holdout.take(SCORED) if self.holdout is not None else None
            self._scored = _Scores(self.source, samples, list(self._feeds), self.terms)
        return self._scored.verdict(model)


class _Scores:
    """Scores of candidates against the source's outputs on all hold-out samples."""

    def __init__(
        self, source: Exported, samples: Samples | None, feeds: list[Any], terms: Terms
    ) -> None:
        self.terms = terms
        self.items = Spool()
        self.source: list[float] = []
        session = Session(source, terms.settings(True))
        rows = (
            ((s.feed, s.label) for s in samples)
            if samples is not None
            else ((f, None) for f in feeds)
        )
        metric: Metric | None = None
        for feed, label in rows:
            outputs = session.run(feed)
            metric = metric or metrics.choose(terms.metric, outputs, label is not None)
            self.items.append((feed, outputs, label))
            self.source.append(metric.score(outputs, outputs, label))
        if metric is None:
            raise SamplesError("no sample is held out: give more calibration data")
        self.metric = metric

    def verdict(self, model: Exported) -> Verdict:
        session = Session(model, self.terms.settings(True))
        name, scores = self.metric.name, list[float]()
        margins = Margins(name)
        for feed, outputs, label in self.items:
            found = session.run(feed)
            scores.append(self.metric.score(found, outputs, label))
            margins.add(outputs, found)
        verdict = interval.summarize(name, self.source, scores, name in metrics.RARE)
        return replace(verdict, foreseen=margins.drop())

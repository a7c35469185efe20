"""The proof: is this model valid, does it load, is its interface the same, are its outputs?"""

from __future__ import annotations

import pickle
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxopt import coverage, metrics
from onnxopt.errors import ModelError, SamplesError
from onnxopt.model.exporter import LOCATION
from onnxopt.parity import Tolerance
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.samples import Samples, synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.metrics import Metric, Verdict
    from onnxopt.model import Exported
    from onnxopt.parity import Outputs

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


class Spool:
    """A list on disk: memory does not grow with the number of samples."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the spool
        weakref.finalize(self, self._file.close)
        self._ends = [0]

    def append(self, item: Any) -> None:
        """Add an item."""
        self._file.seek(self._ends[-1])
        pickle.dump(item, self._file, protocol=5)
        self._ends.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self)):
            yield self[i]

    def __getitem__(self, index: int) -> Any:
        self._file.seek(self._ends[index])
        return pickle.load(self._file)


@dataclass(frozen=True)
class Terms:
    """What a proof is held to.

    Attributes:
        max_drop: How far the score may fall over the whole run.
        metric: Name of a metric, `module:function`, or None to choose by the outputs.
        threads: Threads of onnxruntime.
        custom_ops: Libraries of custom operators.
        seed: Seeds the drawing of synthetic inputs.
    """

    max_drop: float = 0.01
    metric: str | None = None
    threads: int = 1
    custom_ops: tuple[str, ...] = ()
    seed: int = 0

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
        self.strict = _checks(self.source) is None
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

    @property
    def samples(self) -> int:
        """How many inputs outputs are compared on."""
        return 0 if self.unproven else len(self._feeds)

    def first_feed(self) -> dict[str, Any] | None:
        """Return one set of inputs that the source runs on; None if there is none."""
        return self._feeds[0] if self.samples else None

    def _collect(self) -> None:
        """Run the source on the samples, and keep the feeds.

        Raises:
            CannotRun: The source cannot be loaded.
            SamplesError: It cannot be run on a real sample.
        """
        session = Session(self.source, self.terms.settings(False, lean=True))
        if self.holdout is None:
            try:
                samples = synthetic(self.source.inputs, seed=self.terms.seed, n=DRAWS)
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
            if verdict.drop > self.terms.max_drop:
                failure = Failure(
                    "budget",
                    f"{verdict.metric} falls by {verdict.drop:.4f}"
                    f" (+-{verdict.error:.4f}), more than {self.terms.max_drop:g}",
                )
        return Outcome(worst, verdict, failure)

    def _structure(self, model: Exported) -> Failure | None:
        changed = _interface_change(self.source, model)
        if changed:
            return Failure("interface", changed)
        trouble = _checks(model) if self.strict else None
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
        scores = [
            self.metric.score(session.run(feed), outputs, label)
            for feed, outputs, label in self.items
        ]
        return metrics.summarize(self.metric.name, self.source, scores)


def _checks(model: Exported) -> str | None:
    """Run onnx.checker with full shape inference; return its complaint on one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        (Path(folder) / LOCATION).touch()
        try:
            path.write_bytes(model.proto.SerializeToString())
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
            return " ".join(str(e).split())[:300]
        except (ValueError, RuntimeError, TypeError) as e:
            return f"onnx.checker fails: {' '.join(str(e).split())[:300]}"
    return None


def _interface_change(source: Exported, model: Exported) -> str:
    """Return how names, types or defaults of inputs and outputs differ; empty if they do not."""
    for what in ("input", "output"):
        old, new = (list(getattr(m.proto.graph, what)) for m in (source, model))
        names = [[v.name for v in values] for values in (old, new)]
        if names[0] != names[1]:
            gone = [n for n in names[0] if n not in names[1]]
            return f"{what} {gone[0]!r} is gone" if gone else f"the {what}s are {names[1]}"
        for a, b in zip(old, new, strict=True):
            if a.type != b.type:
                return f"{what} {a.name!r} changed its type"
    if source.proto.ir_version >= 4:
        declared = {v.name for v in source.proto.graph.input}
        old_defaults, new_defaults = (
            {t.name: t for t in m.proto.graph.initializer if t.name in declared}
            for m in (source, model)
        )
        for name, tensor in old_defaults.items():
            if (
                name not in new_defaults
                or tensor.SerializeToString() != new_defaults[name].SerializeToString()
            ):
                return f"the default of input {name!r} changed"
    return ""


def validate(source: Exported, custom_ops: tuple[str, ...]) -> str:
    """Decide whether a source is a model at all.

    Returns:
        What the report should note; empty if all is well.

    Raises:
        ModelError: Neither onnx.checker nor onnxruntime takes it, and not because it is newer or
            uses operators that they do not know.
    """
    complaint = _checks(source)
    if complaint is None:
        return ""
    proto = source.proto
    newest = onnx.defs.onnx_opset_version()
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset > newest:
        return f"opset {opset} is newer than this onnx knows ({newest}); it is not checked"
    try:
        Session(source, Settings(custom_ops=custom_ops, lean=True))
    except CannotRun as e:
        raise ModelError(f"the model is not valid: {complaint}") from e
    return f"onnx.checker objects to the source, onnxruntime runs it: {complaint}"

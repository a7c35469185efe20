"""One pass, repeated with fewer edits until what it makes holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import bisect, cost, repro, settle, spec
from onnxopt.base import Context
from onnxopt.deadline import TimeUpError, deadline
from onnxopt.errors import (
    BudgetError,
    OnnxoptError,
    ParityError,
    PassError,
    ProofError,
    SamplesError,
    SpecError,
)
from onnxopt.job import Job, Step
from onnxopt.model import Model
from onnxopt.proof import Failure, Outcome, Proof

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.base import Pass
    from onnxopt.cost import Cost
    from onnxopt.model import Exported
    from onnxopt.samples import Samples

SHARES = (1.0, 0.5, 0.25)
"""Shares of the run's drop that a pass is given, in turn, while what it chooses on its own samples
does not hold on those held out: three looks at them, no more."""

MOST_CULPRITS = 32
"""Wrong edits of one pass that are undone one by one before the pass is given up."""


class Attempt:
    """One pass on one model, repeated with fewer edits until it holds."""

    def __init__(
        self,
        item: Pass,
        before: Exported,
        counts: Cost,
        job: Job,
        proof: Proof,
        calibration: Samples | None,
    ) -> None:
        self.item, self.before, self.counts = item, before, counts
        self.job, self.proof, self.calibration = job, proof, calibration
        self.pass_seconds = 0.0
        self.gate = bisect.Gate()
        self.context = Context()
        self.edits = 0
        self.remarks: list[str] = []
        self.share = SHARES[0]

    def proven(self, model: Model) -> tuple[Exported, Step]:
        """Return the model after the pass, and what happened.

        Raises:
            ProofError: The pass does harm that no single edit explains.
            PassError: It raises, loops or lies whatever is allowed.
        """
        start = time.perf_counter()
        culprits: list[str] = []
        reasons: list[str] = []
        while True:
            after, outcome = self._try(model, frozenset(culprits))
            if outcome.failure is None:
                break
            if self._go_less_far(outcome.failure):
                continue
            culprit = self._culprit(model, outcome.failure, frozenset(culprits))
            if culprit is None or len(culprits) >= MOST_CULPRITS:
                raise self._error(outcome.failure)
            culprits.append(culprit)
            reasons.append(outcome.failure.message)
        total = time.perf_counter() - start
        return after, self._step(after, outcome, culprits, reasons, total)

    def _try(
        self,
        model: Model,
        denied: frozenset[str],
        only: frozenset[str] | None = None,
        focus: tuple[bool, int] | None = None,
    ) -> tuple[Exported, Outcome]:
        """Run the pass on a copy under a gate, and check what comes out."""
        frozen = () if self.item.exact else self.proof.unreached
        self.gate = bisect.Gate(bisect.denials(tuple(denied)), frozen, only)
        terms = self.job.terms
        name = spec.render(self.item)
        self.context = Context(
            self.calibration,
            self.job.target,
            terms.seed,
            terms.threads,
            self.share * terms.max_drop,
            terms.metric,
            terms.custom_ops,
            self.gate,
            self.gate.retract,
            lambda done: self.job.progress(name, done),
            source_bytes=self.proof.source.nbytes,
        )
        copy = Model.from_exported(self.before, model.path)
        start = time.perf_counter()
        try:
            with deadline(self.job.pass_timeout):
                self.edits = settle.run(self.item, copy, self.context, self.job.passes)
                after = copy.export()
        except TimeUpError:
            limit = f"{self.job.pass_timeout:g} s"
            raise PassError(
                f"pass {self.item.name!r} is not done after {limit}; nothing is written"
            ) from None
        except (SamplesError, SpecError, ProofError):
            raise
        except OnnxoptError as e:
            return self.before, Outcome(failure=Failure("raised", str(e)))
        except Exception as e:  # noqa: BLE001  # a pass may raise anything; its edits are then undone
            text = f"{type(e).__name__}: {e}"
            return self.before, Outcome(failure=Failure("raised", text))
        finally:
            self.pass_seconds += time.perf_counter() - start
        changed = not _same(self.before, after)
        if changed and self.edits == 0:
            lie = Failure("lied", "it reports 0 edits but changed the model")
            return self.before, Outcome(failure=lie)
        if not changed:
            return self.before, Outcome(drift=None if self.proof.unproven else 0.0)
        return after, self.proof.check(after, self.item.exact, focus)

    def _go_less_far(self, failure: Failure) -> bool:
        """Give a pass that adapts less of the drop; False if it does not, or had the least."""
        left = [share for share in SHARES if share < self.share]
        if failure.kind != "budget" or not self.item.adapts or not left:
            return False
        self.share = left[0]
        self.remarks.append(
            f"it was made to lose no more than {self.share * self.job.terms.max_drop:g}: with more,"
            f" {failure.message}"
        )
        return True

    def _culprit(self, model: Model, failure: Failure, denied: frozenset[str]) -> str | None:
        made = tuple(self.gate.made)
        if not made or failure.kind in ("lied", "budget"):
            return None

        def fails(only: frozenset[str]) -> bool:
            return (
                self._try(model, denied, only, failure.focus if only else None)[1].failure
                is not None
            )

        culprit = bisect.guilty(made, fails)
        if culprit is not None and self.job.repro is not None:
            self._save(self.job.repro, model, denied, made[: made.index(culprit) + 1])
        return culprit

    def _save(
        self, folder: Path, model: Model, denied: frozenset[str], made: tuple[str, ...]
    ) -> None:
        """Save what shows the last of these edits to be wrong: alone, or after the ones before."""
        for needed in (made[-1:], made):
            after, outcome = self._try(model, denied, frozenset(needed))
            if outcome.failure is not None:
                break
        else:
            return
        failure, name = outcome.failure, spec.render(self.item)
        text = f"{name}: {failure.message}\n\nEdits made:\n" + "\n".join(needed)
        feed = self.proof.feed(failure.focus[1] if failure.focus else 0)
        where = repro.save(folder, needed[-1], self.before, after, feed, text)
        self.remarks.append(f"the wrong edit {needed[-1]!r} can be looked at in {where}")

    def _error(self, failure: Failure) -> OnnxoptError:
        name = self.item.name
        if failure.kind in ("raised", "lied"):
            return PassError(f"pass {name!r} is broken: {failure.message}; nothing is written")
        if failure.kind == "budget":
            return BudgetError(
                f"{name}: {failure.message}; nothing is written. Raise --max-drop, or ask for less"
            )
        return ParityError(f"{name}: {failure.message}; nothing is written")

    def _step(
        self,
        after: Exported,
        outcome: Outcome,
        culprits: list[str],
        reasons: list[str],
        total: float,
    ) -> Step:
        counts = cost.measure(after, self.proof.first_feed())
        names = {*self.counts.ops, *counts.ops}
        deltas = {op: counts.ops.get(op, 0) - self.counts.ops.get(op, 0) for op in sorted(names)}
        return Step(
            spec.render(self.item),
            self.edits,
            tuple(culprits),
            tuple(reasons),
            self._unproven_edits(),
            len(self.gate.held_back),
            self.pass_seconds,
            total - self.pass_seconds,
            outcome,
            counts,
            {op: n for op, n in deltas.items() if n},
            (*self.context.notes, *self.remarks),
            dict(self.context.untouched),
            dict(self.context.evidence),
        )

    def _unproven_edits(self) -> int:
        if not self.proof.unreached:
            return 0
        return sum(bisect.inside(e, self.proof.unreached) for e in self.gate.made)


def _same(a: Exported, b: Exported) -> bool:
    """Whether two models have the same messages and the same weights."""
    if a.weights.keys() != b.weights.keys():
        return False
    for name, weight in a.weights.items():
        other = b.weights[name]
        if weight.raw is not other.raw and not np.array_equal(weight.raw, other.raw):
            return False
    left = a.proto.SerializeToString(deterministic=True)
    return bool(left == b.proto.SerializeToString(deterministic=True))

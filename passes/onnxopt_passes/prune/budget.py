"""From a budget to a cut and fitted model.

    reads = collect(source, linear.find_all(source.graph), thinned(samples, CURVES).feeds, ...)
    rankings = {group.name: ranking(group, reads) for group in groups}
    place = search.space(groups, rankings, allowed widths, works)
    Budget(Workshop(source, groups, reads, cut), place, Judge(source, aside), samples, ...).run()

`ratio` takes the same share of every group. `macs`, `params` and `latency` are shares of the source
that the written model may cost, as it is counted or timed. Without any of them the largest cut is
looked for that keeps the score.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxopt import cost, verdicts
from onnxopt.errors import BudgetError, SpecError
from onnxopt.runtime import CannotRun, Session
from onnxopt.timing import clock, interleave
from onnxopt_passes.prune import search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxopt.model import Exported, Model
    from onnxopt.samples import Samples
    from onnxopt.timing import Timing
    from onnxopt_passes.prune.judge import Judge, Judgement
    from onnxopt_passes.prune.least_squares import Fit
    from onnxopt_passes.prune.search import Space
    from onnxopt_passes.prune.workshop import Workshop

Kind = Literal["ratio", "macs", "params", "latency", "drop"]
"""What a budget limits; `drop` is the fall of the score."""

CURVES = 512
"""Samples that error curves are drawn from; rows of one layer, not samples, are what counts."""

QUICK = 160
"""Samples of the fits that rank proposals."""

ROUGH = 200
"""Samples that judge what comes before any fit, about: one cut a group is judged."""

SECONDS = 2.0
"""Time spent on timing one model against the source."""

TIMINGS = 3
"""How often widths are looked for that are within a budget of latency, and near it."""

ROUNDS = 2000
"""Runs of a model in that time, at most."""

NOISE = 1.08
"""How far above the share of the least times that of the medians counts."""

OVER = 0.01
"""By how much a counted cost may be over its budget: widths are whole numbers."""


@dataclass(frozen=True)
class Result:
    """A cut model.

    Attributes:
        model: Cut and fitted.
        widths: Of the groups of the space.
        fits: What came out for each layer; empty where no fit was taken.
        judgement: On the samples set aside.
        why: Why no fit was taken, where one was tried.
    """

    model: Model
    widths: list[int]
    fits: dict[str, Fit]
    judgement: Judgement
    why: str = ""


@dataclass(frozen=True)
class Budget:
    """A search for the best cut within a budget.

    Attributes:
        shop: Makes cut models.
        place: The groups to choose widths of.
        judge: Compares models on samples set aside.
        samples: What models are fitted on; none of them is one of the judge's.
        kind: What is limited.
        value: Ratio to take; share of the source's cost to leave; or the drop to allow.
    """

    shop: Workshop
    place: Space
    judge: Judge
    samples: Samples
    kind: Kind
    value: float

    def run(self) -> Result:
        """Return the best cut that was found.

        Raises:
            BudgetError: No cut keeps within the budget.
            SpecError: It cannot be counted.
        """
        if self.kind == "ratio":
            shares = [1 - self.value] * len(self.place.choices)
            pairs = zip(self.place.choices, shares, strict=True)
            widths = [min(c.widths, key=lambda w: abs(w - s * c.size)) for c, s in pairs]
        elif self.kind == "drop":
            widths = self._mildest()
        else:
            widths = self._within()
        return self.made(widths, self.samples)

    def made(self, widths: Sequence[int], samples: Samples) -> Result:
        """Return the model cut to some widths, fitted on some samples, and judged.

        A fit that takes the answers further away than the cut alone is refused as a whole.
        """
        keeps = self.place.keeps(widths)
        plain = self.shop.absorbed(keeps)
        before = self.judge.of(plain)
        if not keeps:
            return Result(plain, list(widths), {}, before)
        student = self.shop.absorbed(keeps)
        try:
            fits = self.shop.fit(student, keeps, samples.feeds, samples.count())
        except CannotRun as e:
            return Result(plain, list(widths), {}, before, f"no fit: {e}")
        after = self.judge.of(student)
        if after.divergence > before.divergence:
            why = f"fit refused: divergence {after.divergence:.3g}, {before.divergence:.3g} without"
            return Result(plain, list(widths), {}, before, why)
        return Result(student, list(widths), fits, after)

    def _quick(self, widths: Sequence[int]) -> Judgement:
        return self.made(widths, thinned(self.samples, QUICK)).judgement

    def _rough(self) -> Callable[[Sequence[int]], float]:
        """Return what measures the divergence of a cut that is not fitted, each once."""
        seen: dict[tuple[int, ...], float] = {}

        def measured(widths: Sequence[int]) -> float:
            key = tuple(widths)
            if key not in seen:
                seen[key] = self._divergence(widths)
            return seen[key]

        return measured

    def _divergence(self, widths: Sequence[int]) -> float:
        return self.judge.of(self.shop.absorbed(self.place.keeps(widths)), ROUGH).divergence

    def _within(self) -> list[int]:
        """Return the best widths whose measured cost keeps within the budget."""
        meter, rough = self._meter(), self._rough()
        rounds = TIMINGS if self.kind == "latency" else search.ROUNDS

        def met(proposal: Callable[[float], list[int]]) -> list[int]:
            return proposal(search.within(proposal, self.value, meter, rounds))

        proposals = search.propose(self.place, met, rough)
        fitting = [w for w in proposals if meter(w) <= self.value + OVER]
        if not fitting:
            least = min(map(meter, proposals))
            raise BudgetError(
                f"{self.kind}={self.value:g} cannot be met: the groups that may be cut leave"
                f" {least:.3g}"
            )
        return fitting[0] if len(fitting) == 1 else search.best(fitting, self._quick)[0]

    def _mildest(self) -> list[int]:
        """Return the widths of the largest cut whose score holds; full widths if none does."""
        place = self.place.calibrated(self.place.halves(), self._divergence)

        def proposals(share: float) -> list[list[int]]:
            found = [place.kept().proposal(share), place.proposal(share)]
            return found[:1] if found[0] == found[1] else found

        found = search.largest(proposals, self._quick, self.value)
        return [c.size for c in self.place.choices] if found is None else found[0]

    def _meter(self) -> Callable[[Sequence[int]], float]:
        """Return what measures the cost of a cut to given widths, as a share of the source's."""
        feed, source = next(self.samples.feeds()), self.shop.source.export()
        whole = 0.0 if self.kind == "latency" else self._count(source, feed)
        seen: dict[tuple[int, ...], float] = {}

        def measured(widths: Sequence[int]) -> float:
            key, keeps = tuple(widths), self.place.keeps(widths)
            if not keeps:
                return 1.0
            if key not in seen:
                made = self.shop.cut(self.shop.source, keeps).export()
                if self.kind == "latency":
                    seen[key] = self._timed(source, made, feed)
                else:
                    seen[key] = self._count(made, feed) / whole
            return seen[key]

        return measured

    def _timed(self, source: Exported, cut: Exported, feed: Mapping[str, Any]) -> float:
        """Return the time of a cut model as a share of the source's; measured once on a machine."""
        sizes = {name: np.shape(value) for name, value in feed.items()}
        models = _digest(source), _digest(cut)
        key = verdicts.key("share of time", *models, repr(self.shop.settings), sizes, SECONDS)
        known = verdicts.recall(key)
        if known is None:
            sessions = [Session(m, self.shop.settings) for m in (source, cut)]
            own = clock(self.shop.settings.threads)
            known = _share(*interleave(sessions, feed, SECONDS, ROUNDS, own))
            verdicts.remember(key, known)
        return float(known)

    def _count(self, exported: Exported, feed: Mapping[str, Any]) -> float:
        counts = cost.measure(exported, feed)
        if self.kind == "params":
            return float(counts.params)
        if not counts.macs:
            raise SpecError("the MACs of this model cannot be counted; give params= or ratio=")
        return float(counts.macs)


def _share(source: Timing, cut: Timing) -> float:
    """Return the time of a cut as a share, by the median where that is more than by the least.

    A median far above the least is other work on the machine, and counts as `NOISE` above it.
    """
    least, median = cut.minimum / source.minimum, cut.median / source.median
    return max(least, min(median, NOISE * least))


def _digest(exported: Exported) -> str:
    text: bytes = exported.proto.SerializeToString(deterministic=True)
    return hashlib.sha256(text).hexdigest()


def thinned(samples: Samples, most: int) -> Samples:
    """Return about so many samples, drawn evenly from all: sets are often sorted by class."""
    count = samples.count()
    return samples if count <= most else samples.split(most / count)[1]

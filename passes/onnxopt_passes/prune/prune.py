"""The pass `prune`: groups, a choice, the cut, its certificate, and weights that make up for it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from onnxopt.base import Pass
from onnxopt.errors import BudgetError, SamplesError
from onnxopt.margins import CAUTION
from onnxopt.runtime import Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune import plan, uncalibrated
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.certificate import MOST_INPUTS, Certifier
from onnxopt_passes.prune.chosen import Chosen
from onnxopt_passes.prune.criteria import CRITERIA, named, scores
from onnxopt_passes.prune.cutter import Cutter, stays
from onnxopt_passes.prune.decide import LEAST_SAMPLES, Wish, decide
from onnxopt_passes.prune.obs import Ranking
from onnxopt_passes.prune.observe import drawn, observe
from onnxopt_passes.prune.recast import Recast, prepared
from onnxopt_passes.prune.seen import Seen
from onnxopt_passes.prune.survey import survey

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.plan import Plan

BUDGETS = ("ratio", "macs", "params", "latency")


@dataclass(frozen=True)
class Prune(Pass):
    """Remove channels, heads and hidden units, and fit the layers that read them anew.

    At most one budget is given. Without any, the largest cut is looked for that keeps the score.

    Attributes:
        ratio: Share of each group's indices that go.
        macs: Share of the source's multiply-accumulates that may stay.
        params: Share of the source's parameters that may stay.
        latency: Share of the source's latency that may stay, measured on this machine.
        criterion: `obs`, `activation`, `taylor` or `fisher` on the calibration samples; `l1`, `l2`
            or `bn` on the weights; `random`; or `module:function`. `taylor` and `fisher` run the
            model once for each index and sample.
        compensate: `ls`: layers are fitted by least squares to what the uncut model computes.
            `none`: weights are only cut; a ratio then needs no samples
            (`--allow-synthetic`).
        align: `measured`: only widths that pay on this machine. `none`: every width.
        heads: `whole`: heads of an attention go whole. `any`: their width may shrink too.
        soft: Cut widths over which a mean or a variance is taken too (LayerNormalization,
            RMSNormalization, ReduceMean): no cut of them is exact, so that layers must be fitted.
        min_channels: The smallest width of a group. Above 1, branches do not go whole either.
        include: Only groups whose name matches one of these globs.
        exclude: No groups whose name matches one of these.
        plan: A JSON file with the indices that stay: read if it exists, else written.
    """

    name: ClassVar[str] = "prune"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("clean", "fuse")

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    criterion: str = "obs"
    compensate: Literal["ls", "none"] = "ls"
    align: Literal["measured", "none"] = "measured"
    heads: Literal["whole", "any"] = "whole"
    soft: bool = False
    min_channels: int = 1
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    plan: str | None = None

    def __post_init__(self) -> None:
        given = [n for n in BUDGETS if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}")
        if given and not 0 < getattr(self, given[0]) < 1:
            raise ValueError(f"{given[0]} must lie between 0 and 1")
        if self.criterion not in ("obs", *CRITERIA) and ":" not in self.criterion:
            known = ", ".join(CRITERIA)
            raise ValueError(f"no criterion is named {self.criterion!r}; there are: obs, {known}")
        if self.soft and self.compensate == "none":
            raise ValueError("soft=true changes what means are taken over: it needs compensate=ls")
        if self.compensate == "none" and self.plan is None and given in ([], ["latency"]):
            raise ValueError("compensate=none takes ratio=, macs= or params=")
        if self.min_channels < 1:
            raise ValueError("min_channels must be at least 1")

    @property
    def adapts(self) -> bool:
        """Whether the cut is the largest with which the score holds: neither told nor read."""
        return self.plan is None and all(getattr(self, kind) is None for kind in BUDGETS)

    def run(self, model: Model, ctx: Context) -> int:  # noqa: D102
        if self.criterion != "obs":
            named(self.criterion)  # a wrong name fails before any work
        if self.soft and _few(ctx):
            raise SamplesError(
                "prune: soft=true changes what means are taken over, and layers must make up for "
                f"that: give at least {LEAST_SAMPLES} --calib samples"
            )
        source = model.clone()
        feeds = _feeds(source, ctx)
        observed = observe(source, (*drawn(source, ctx.seed), *feeds), _settings(ctx))
        analysis = analyse(model, self.soft, observed)
        groups = [g for g in analysis.groups if self._open(g, ctx)]
        self._demand(groups, ctx)
        file = None if self.plan is None else Path(self.plan)
        planned = plan.read(file, groups) if file is not None and file.exists() else None
        allowed = [g for g in groups if ctx.allow(f"group@{g.name}")]
        certifier = Certifier(source, feeds, _settings(ctx), observed)
        chosen = Chosen({}, source)
        if allowed and certifier.feeds:
            recast = prepared(certifier, allowed, ctx, planned, self._by_samples(ctx))
            chosen = self._proven(recast, allowed, certifier.of(recast.model), ctx, planned)
            if file is not None and planned is None:
                plan.write(file, allowed, chosen.keeps, recast.orders, recast.turned)
        elif allowed:
            ctx.notes.append("prune: the model runs on no inputs that were tried; nothing is cut")
        for group in allowed:
            if group.name not in chosen.keeps:
                ctx.retract(f"group@{group.name}")
        if chosen.keeps:
            model.graph = chosen.model.graph
        return len(chosen.keeps)

    def survey(self, model: Model, ctx: Context) -> dict[str, Any]:  # noqa: D102
        return survey(model, _settings(ctx))

    def _open(self, group: Group, ctx: Context) -> bool:
        """Whether a group may be cut; if not, the report says why."""
        reason = group.frozen
        if reason is None and group.head and self.heads == "whole":
            reason = "width within heads: heads=any cuts it too"
        elif reason is None and group.size <= self.min_channels:
            reason = f"no wider than min_channels={self.min_channels}"
        elif reason is None and not any(fnmatchcase(group.name, g) for g in self.include):
            reason = "not named by include="
        elif reason is None and any(fnmatchcase(group.name, g) for g in self.exclude):
            reason = "named by exclude="
        if reason is not None:
            ctx.untouched[group.name] = reason
        return reason is None

    def _demand(self, groups: list[Group], ctx: Context) -> None:
        """Refuse a budget where nothing may be cut.

        Raises:
            BudgetError: There is one.
        """
        kind, value = self._budget(ctx)
        if not groups and self.plan is None and kind in ("macs", "params", "latency"):
            reasons = sorted(set(ctx.untouched.values()))
            why = f": {'; '.join(reasons)}" if reasons else ""
            raise BudgetError(f"{kind}={value:g} cannot be met: no width may be cut{why}")

    def _by_samples(self, ctx: Context) -> bool:
        """Whether what is cut is chosen, and made up for, on samples."""
        return self.criterion == "obs" and self.compensate == "ls" and not _few(ctx)

    def _proven(
        self,
        recast: Recast,
        groups: list[Group],
        certifier: Certifier,
        ctx: Context,
        planned: Plan | None,
    ) -> Chosen:
        """Choose, cut and certify; groups that the certificate refuses are left whole.

        A rule that is wrong is mostly found by cutting half of each group, before any search.
        """
        halves = {g.name: np.arange(g.size) % 2 == 0 for g in groups if g.size > 1}
        guilty = dict(certifier.certify(halves)[1].guilty)
        while True:
            left = [g for g in groups if g.name not in guilty]
            self._demand(left, ctx)
            chosen = self._chosen(recast, left, Cutter(certifier.observed), ctx, planned)
            masks = {
                g.name: stays(g.size, chosen.keeps[g.name]) for g in left if g.name in chosen.keeps
            }
            _, certificate = certifier.certify(masks)
            if not certificate.guilty:
                break
            guilty |= certificate.guilty
        for name, why in guilty.items():
            ctx.untouched[name] = f"the certificate does not hold: {why}"
        ctx.evidence["certificate"] = {**certificate.facts(), "frozen": dict(guilty)}
        ctx.evidence.update(chosen.evidence(left))
        ctx.evidence["recast"] = recast.facts()
        soft = [g.name for g in left if g.soft is not None and g.name in chosen.keeps]
        if soft:
            ctx.notes.append(
                f"prune: the certificate of {', '.join(soft)} compares with means taken over what "
                "stays: no cut of them equals the uncut model"
            )
        return chosen

    def _chosen(
        self,
        recast: Recast,
        groups: list[Group],
        cutter: Cutter,
        ctx: Context,
        planned: Plan | None,
    ) -> Chosen:
        """Return a cut, as it was planned or as it is found best."""
        if planned is None:
            return self._decided(recast, groups, cutter, ctx)
        sizes = {g.name: g.size for g in groups}
        keeps = {n: k for n, k in planned.keeps.items() if len(k) < sizes.get(n, 0)}
        return Chosen(keeps, cutter(recast.model, keeps))

    def _decided(self, recast: Recast, groups: list[Group], cutter: Cutter, ctx: Context) -> Chosen:
        source, rankings = recast.model, None
        if not self._by_samples(ctx):
            criterion = "l2" if self.criterion == "obs" else self.criterion
            rankings = self._ranked(criterion, source, groups, ctx)
        kind, value = self._budget(ctx)
        if rankings is not None and (self.compensate == "none" or _few(ctx)):
            ctx.notes.append("prune: no layer is fitted anew to calibration samples")
            groups = [g for g in groups if g.name in rankings]
            step = uncalibrated.STEP if self.align == "measured" else 1
            keeps = uncalibrated.choose(
                source, groups, rankings, cutter, (kind, value), max(self.min_channels, 1), step
            )
            gone = {g.name: g.size - len(keeps.get(g.name, range(g.size))) for g in groups}
            lost = {name: float(rankings[name].errors[n]) for name, n in gone.items()}
            return Chosen(keeps, cutter(source, keeps), scores=lost)
        wish = Wish(kind, value, self.align == "measured", self.min_channels)
        decision = decide(source, groups, cutter, ctx, wish, rankings, recast.rankings)
        for name in decision.unranked:
            ctx.untouched[name] = "no layer with samples reads it"
        if decision.result.why:
            ctx.notes.append(f"prune: {decision.result.why}")
        place, result = decision.place, decision.result
        rows = zip(place.groups, place.choices, result.widths, strict=True)
        return Chosen(
            place.keeps(result.widths),
            result.model,
            {g.name: c.error(w) for g, c, w in rows},
            fits={n: (f.before, f.after) for n, f in result.fits.items() if f.ridge is not None},
        )

    def _ranked(
        self, criterion: str, source: Model, groups: list[Group], ctx: Context
    ) -> dict[str, Ranking]:
        """Return the orders of a criterion, and say what it cost."""
        settings = Settings(True, ctx.threads, ctx.custom_ops)
        indices = sum(g.size for g in groups)
        seen = Seen(source, ctx.calibration, ctx.seed, settings, indices)
        worths = {g.name: scores(criterion, g, seen) for g in groups}
        for name in (n for n, worth in worths.items() if worth is None):
            ctx.untouched[name] = "no layer with samples reads it"
        if seen.runs:
            ctx.notes.append(
                f"prune: criterion={criterion} ran the model {seen.runs:,} times, once for each of "
                f"{indices:,} indices and each of {len(seen.gates.outputs)} samples"
            )
        return {name: _ranking(worth) for name, worth in worths.items() if worth is not None}

    def _budget(self, ctx: Context) -> tuple[uncalibrated.Kind, float]:
        for kind in uncalibrated.KINDS:
            value = getattr(self, kind)
            if value is not None:
                return kind, float(value)
        return "drop", CAUTION * ctx.max_drop


def _few(ctx: Context) -> bool:
    """Whether there are too few samples to choose and to fit on."""
    return ctx.calibration is None or ctx.calibration.count() < LEAST_SAMPLES


def _ranking(worth: np.ndarray) -> Ranking:
    """Return the order by worth; the error is the share of it that is gone."""
    order = np.argsort(worth, kind="stable")
    lost = np.concatenate([[0.0], np.cumsum(worth[order])])
    return Ranking(order, lost / max(float(lost[-1]), 1e-30))


def _settings(ctx: Context) -> Settings:
    return Settings(threads=ctx.threads, custom_ops=ctx.custom_ops)


def _feeds(model: Model, ctx: Context) -> list[dict[str, object]]:
    """Return inputs to certify on: samples, else drawn ones."""
    if ctx.calibration is not None:
        return list(islice(ctx.calibration.feeds(), MOST_INPUTS))
    return list(synthetic(model.export().inputs, seed=ctx.seed, n=MOST_INPUTS).feeds())

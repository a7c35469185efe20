"""Prune: channels, heads and hidden widths that the outputs can do without are removed.

Groups of indices that stand or fall together are found (`analysis`), ranked and chosen (`decide`),
removed, and made up for by least squares; a certificate proves that the cut is where it should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from onnxopt.base import Pass
from onnxopt.runtime import Settings
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.budget import planned
from onnxopt_passes.prune.certificate import MOST_INPUTS, Certifier
from onnxopt_passes.prune.cut import cut
from onnxopt_passes.prune.decide import Wish, decide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt_passes.prune.budget import Kind
    from onnxopt_passes.prune.decide import Decision
    from onnxopt_passes.prune.groups import Group


@dataclass(frozen=True)
class Prune(Pass):
    """Remove channels that the outputs can do without, and fit the layers that read them.

    Without a budget, the largest cut is made that keeps the score within the run's `--max-drop` on
    samples set aside.

    Attributes:
        ratio: Share of each group's channels to remove.
        macs: Share of the multiply-accumulates to leave.
        params: Share of the parameters to leave.
        latency: Share of the time to leave, measured on this machine.
        align: `measured`: only widths at which the kernels of this machine gain time; `none`: all.
        min_channels: The smallest width of a group.
        include: Globs of groups to cut, separated by `+`; all if empty.
        exclude: Globs of groups to leave alone.
    """

    name: ClassVar[str] = "prune"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("clean", "fuse")
    calibrated: ClassVar[bool] = True

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    align: Literal["measured", "none"] = "measured"
    min_channels: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [v for v in (self.ratio, self.macs, self.params, self.latency) if v is not None]
        if len(given) > 1:
            raise ValueError("give one of ratio, macs, params and latency")
        if any(not 0 < v < 1 for v in given):
            raise ValueError("a budget lies between 0 and 1")
        if self.min_channels < 1:
            raise ValueError("min_channels is at least 1")

    def run(self, model: Model, ctx: Context) -> int:
        """Cut, prove the cut, and fit."""
        source = model.clone()
        groups = self._groups(source, ctx)
        inputs = [] if ctx.calibration is None else ctx.calibration.feeds()
        settings = Settings(threads=ctx.threads, custom_ops=ctx.custom_ops)
        certifier = Certifier(source, list(islice(inputs, MOST_INPUTS)), settings)
        while groups:
            decision = decide(source, groups, remove, ctx, self._wish(ctx))
            keeps = decision.place.keeps(decision.result.widths)
            _, certificate = certifier.certify(_masks(decision.place.groups, keeps))
            if not certificate.guilty:
                ctx.evidence["certificate"] = certificate.facts()
                return self._take(model, groups, decision, ctx)
            for name, why in certificate.guilty.items():
                ctx.untouched[name] = f"not certified: {why}"
                ctx.retract(f"prune@{name}")
            groups = [g for g in groups if g.name not in certificate.guilty]
        return 0

    def _wish(self, ctx: Context) -> Wish:
        budgets: dict[Kind, float | None] = {
            "ratio": self.ratio,
            "macs": self.macs,
            "params": self.params,
            "latency": self.latency,
        }
        given = [(kind, value) for kind, value in budgets.items() if value is not None]
        kind, value = given[0] if given else ("drop", ctx.max_drop)
        return Wish(kind, value, self.align == "measured", self.min_channels)

    def _groups(self, source: Model, ctx: Context) -> list[Group]:
        """Return the groups that may be cut; says why the others may not."""
        found = []
        for group in analyse(source.clone()).groups:
            if group.frozen is not None:
                ctx.untouched[group.name] = group.frozen
            elif group.head:
                ctx.untouched[group.name] = "width within heads: heads stay whole"
            elif not self._named(group.name):
                ctx.untouched[group.name] = "excluded"
            elif ctx.allow(f"prune@{group.name}"):
                found.append(group)
        return found

    def _named(self, name: str) -> bool:
        wanted = not self.include or any(fnmatchcase(name, glob) for glob in self.include)
        return wanted and not any(fnmatchcase(name, glob) for glob in self.exclude)

    def _take(self, model: Model, groups: list[Group], decision: Decision, ctx: Context) -> int:
        """Put the cut model in the place of the model, and report; returns the number of cuts."""
        result = decision.result
        keeps = decision.place.keeps(result.widths)
        for group in groups:
            if group.name not in keeps:
                ctx.retract(f"prune@{group.name}")
        for name in decision.unranked:
            ctx.untouched[name] = "no Conv, Gemm or MatMul reads it, so its error is not known"
        ctx.evidence["groups"] = planned(result, decision.place)
        ctx.evidence["fits"] = {
            name: {"before": round(f.before, 6), "after": round(f.after, 6), "ridge": f.ridge}
            for name, f in result.fits.items()
        }
        if result.why:
            ctx.notes.append(result.why)
        if keeps:
            model.graph, model.header = result.model.graph, result.model.header
        return len(keeps)


def remove(model: Model, keeps: Mapping[str, np.ndarray]) -> Model:
    """Return a model without the indices that do not stay; see `Workshop.cut`."""
    found = model.clone()
    analysis = analyse(found)
    cut(analysis, _masks(analysis.groups, keeps))
    return found.clone()


def _masks(groups: Sequence[Group], keeps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the same as booleans, one an index of a group."""
    return {
        group.name: np.isin(np.arange(group.size), keeps[group.name])
        for group in groups
        if group.name in keeps
    }

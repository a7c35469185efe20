"""Static quantization of one model: calibrate, find what pays, prove it on samples, then edit.

1  ranges of all tensors at units, from the fitting part of the calibration samples
2  all units in integers; what onnxruntime does not fuse goes back to float (audit)
3  units timed in float and in integers; the cheapest plan by a minimum cut, timed as a whole
4  if the metric is far off, the few groups of units that lose the most put aside
5  biases and integers of weights fitted, wherever the noise on the trying part falls
6  while the metric falls too far there: the error of each group of units alone, as a penalty in the
same cut, at a rising price; what is in float is then tried once more
7  the plan is kept only if the whole model is faster than before
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxopt import rewrite, shapes
from onnxopt.margins import CAUTION
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt_passes.quant import (
    audit,
    cut,
    equalize,
    holding,
    placing,
    recovery,
    sensitivity,
    static_fit,
    units,
)
from onnxopt_passes.quant.calibration import MINMAX, calibrate
from onnxopt_passes.quant.plan import Plan
from onnxopt_passes.quant.settle import Settler
from onnxopt_passes.quant.static import Recipe

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.samples import Samples
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.layer_fit import Won
    from onnxopt_passes.quant.trial import Trial
    from onnxopt_passes.quant.units import Unit

ROUNDS = 4
"""How often the audit takes units back."""

UNRECOVERED = 2.0
"""How much more than allowed a plan may lose before anything was won back."""

LARGE = 0.1
"""Share of the noise of all groups together from which on one is put aside at first."""

SOME = 4
"""Samples on which they are looked for."""

PRODUCTS = ("MatMul", "Gemm")
"""Units that hybrid leaves to dynamic quantization."""


class Converter:
    """Finds the plan for one model.

    Args:
        model: The float model, opset 13 or later; not changed.
        options: What is asked for.
        ctx: The run.
        cpu: The profile to write for.
        fit: Samples to fit to.
        trial: Samples to try on.
        products: Whether MatMul and Gemm are among the units.
    """

    def __init__(
        self,
        model: Model,
        options: Quant,
        ctx: Context,
        cpu: str,
        fit: Samples,
        trial: Trial,
        products: bool = True,
    ) -> None:
        self.options, self.ctx, self.cpu, self.fit, self.trial = options, ctx, cpu, fit, trial
        self.model, self.source = model, model.export()
        self.products = products
        found = units.find(model.graph)
        self.found = [u for u in found if products or u.node.op not in PRODUCTS]
        self.settings = Settings(False, ctx.threads, ctx.custom_ops)
        self.plan = Plan(options.method, {u.name for u in self.found})
        self.recipe = Recipe({})
        self.times: cut.Times | None = None

    def run(self) -> Plan:
        """Return a new plan; it chooses nothing where integers do not pay.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        self._calibrate(compare=True)
        if self.options.recover == "auto":
            self._equalize()
        self._audit()
        if self.options.timed and self.plan.chosen:
            self._time()
        able = set(self.plan.chosen)
        if self.options.recover == "auto" and able:
            self._weed()
            self._recover(able)
        self._hold(able)
        return self.plan

    def adopt(self, plan: Plan) -> None:
        """Take a plan that was made before.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        self.plan = plan
        names = plan.recovered.get(equalize.STEP)
        if names:
            factors = equalize.measure(self.model, self.fit, self.settings)
            self._take(self._equalized(factors, names))
        self._calibrate(compare=False)
        if any(plan.recovered.values()):
            fit = static_fit.read(self.model, self._chosen(), self.recipe, self.fit, self.ctx)
            self.recipe = self._with(fit.won(plan.recovered))

    def able(self) -> list[Unit]:
        """Take ranges, and return the units that onnxruntime runs in integers.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        self._calibrate(compare=False)
        self._audit()
        return self._chosen()

    def build(
        self, chosen: Collection[str], recipe: Recipe | None = None, named: bool = False
    ) -> Exported:
        """Return the model with some units in integers.

        Args:
            chosen: Their names.
            recipe: The numbers, those found by default.
            named: Name nodes by their units.
        """
        model = Model.from_exported(self.source)
        if named:
            audit.name_nodes(model.graph)
        if chosen:
            shapes.infer(model)
            with rewrite.editing(model):
                placing.place(model, chosen, recipe or self.recipe)
        return model.export()

    def _calibrate(self, compare: bool) -> None:
        """Take ranges, leave out what has none, and find out whether clipping helps."""
        same = self.plan.method in (self.options.method, MINMAX)
        self.known = calibrate(
            self.model,
            self.found,
            self.options,
            self.options.method if same else self.plan.method,
            self.cpu,
            self.fit,
            self.settings,
            self.ctx.seed,
            self.trial.feed,
        )
        for name, reason in self.known.left.items():
            self.plan.leave({name}, reason)
        self.recipe = self.known.recipes[self.plan.method]
        if compare:
            self._compare_methods()

    def _compare_methods(self) -> None:
        """Clip only if outputs are nearer to the source's than without clipping."""
        if self.options.method != "auto":
            return
        noises = {
            method: self.trial.judge(self.build(self.plan.chosen, r), sensitivity.FEW).noise
            for method, r in self.known.recipes.items()
        }
        self.plan.method = min(noises, key=noises.__getitem__)
        self.recipe = self.known.recipes[self.plan.method]

    def _chosen(self) -> list[Unit]:
        return [u for u in self.found if u.name in self.plan.chosen]

    def _audit(self) -> None:
        for _ in range(ROUNDS):
            exported = self.build(self.plan.chosen, named=True)
            floating = audit.islands(exported, self._chosen(), self.ctx.threads)
            if not floating:
                return
            self.plan.leave(floating, "onnxruntime has no integer kernel for it here")

    def _time(self) -> None:
        floats = self.build((), named=True)
        integers = self.build(self.plan.chosen, named=True)
        chosen = self._chosen()
        feed, threads = self.trial.feed, self.ctx.threads
        self.times = audit.times(floats, integers, chosen, self.known.sizes, feed, threads)
        kept = self._recut(set(self.plan.chosen), {}, 0.0)
        settler = self._settler(self.times)
        kept, self.times = settler.open(kept, self.times, self._cut)
        kept, self.times = settler.close(kept, self.times)
        self.plan.leave(self.plan.chosen - kept, "it is slower in integers")

    def _settler(self, times: cut.Times) -> Settler:
        def build(chosen: Collection[str]) -> Exported:
            return self.build(chosen, named=True)

        seconds = 1e-6 * sum(times.floats.values())
        return Settler(build, self.found, self.trial.feed, self.ctx.threads, seconds)

    def _equalize(self) -> None:
        """Bring channels to like size, if all units in integers are nearer to the source then."""
        factors = equalize.measure(self.model, self.fit, self.settings)
        if not factors:
            return
        other = self._equalized(factors, factors)
        other._calibrate(compare=True)
        before, after = (self.trial.judge(c.build(c.plan.chosen)).noise for c in (self, other))
        better = after < before
        names = frozenset(factors if better else ())
        kept = recovery.Kept(equalize.STEP, names, len(factors), before, min(before, after))
        kept.report(self.ctx, "static")
        if better:
            self._take(other)
            self.plan, self.known, self.recipe = other.plan, other.known, other.recipe
            self.plan.recovered[equalize.STEP] = names

    def _equalized(self, factors: Mapping[str, np.ndarray], names: Collection[str]) -> Converter:
        """Return a converter of the model with some tensors equalized."""
        model = Model.from_exported(self.source)
        shapes.infer(model)
        equalize.apply(model, factors, names)
        return Converter(
            model, self.options, self.ctx, self.cpu, self.fit, self.trial, self.products
        )

    def _take(self, other: Converter) -> None:
        """Go on with another model of the same units."""
        self.model, self.source, self.found = other.model, other.source, other.found

    def _weed(self) -> None:
        """Put aside the few groups that drown what is won elsewhere, if the metric is far off."""
        search, parts = self._search(), sensitivity.groups(self._chosen())
        if replace(search, limit=UNRECOVERED * search.limit).holds(self.plan.chosen):
            return
        noises = search.errors(parts, SOME)
        most = LARGE * sum(noises.values())
        loud = {n for part in parts if sum(noises[x] for x in part) > most for n in part}
        kept = self._recut(self.plan.chosen - loud, {}, 0.0) if loud else set()
        if kept:
            self.plan.chosen = kept
            self._compare_methods()

    def _search(self) -> sensitivity.Search:
        limit = CAUTION * self.ctx.max_drop
        return sensitivity.Search(self.build, self.trial, limit, self._recut)

    def _recover(self, able: set[str]) -> None:
        """Correct biases and refine integers, wherever that lowers the noise on the trying part.

        What was put aside is fitted too; where it comes back, it does so with all corrections.
        """
        found = [u for u in self.found if u.name in able]
        fit = static_fit.read(self.model, found, self.recipe, self.fit, self.ctx)
        chosen = self.plan.chosen

        def build(won: Won) -> Exported:
            return self.build(chosen, self._with(won))

        recovered = fit.search("static", build, chosen, self.trial, self.ctx)
        aside = fit.items.keys() & (able - chosen)
        self.plan.recovered |= {step: names | aside for step, names in recovered.items()}
        self.recipe = self._with(fit.won(self.plan.recovered))

    def _with(self, won: Won) -> Recipe:
        return replace(self.recipe, biases=won.biases, refined=won.refined)

    def _recut(self, kept: set[str], shares: Mapping[str, float], price: float) -> set[str]:
        """Return what stays in integers at a price of error."""
        if self.times is None:
            return sensitivity.drop_worst(kept, shares, price)
        return cut.among(self.found, kept, self.times, shares, price)

    def _cut(self, kept: set[str], times: cut.Times) -> set[str]:
        """Return the fastest plan among units that are kept."""
        return cut.among(self.found, kept, times)

    def _hold(self, able: set[str]) -> None:
        """Give units back to float until the metric holds on the trying part."""
        begin, self.plan.chosen = self.plan.chosen, able
        timed = self.times is not None
        kept, self.plan.noise = holding.hold(self._search(), self._chosen(), begin, self.ctx, timed)
        self.plan.leave(able - kept, "it costs too much accuracy")
        if self.times is not None and self.plan.noise:
            self._settle(self.times)

    def _settle(self, times: cut.Times) -> None:
        """Take out what is slow between the units that are left; fewer integers are as accurate."""
        kept, _ = self._settler(times).open(set(self.plan.chosen), times, self._cut)
        if kept != self.plan.chosen and self._search().holds(kept):
            self.plan.leave(self.plan.chosen - kept, "it is slower in integers")

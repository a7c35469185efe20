"""Which products run in integers under dynamic quantization, and what is won back for them.

1  all products, channels of their inputs brought to like size where that lowers the noise: by
   factors that the layer in front takes in (`equalize`), or by a Mul (`smooth`)
2  where sums of two products could saturate, columns narrowed so far that no input can make them;
   less far, by emulation on samples, where that lowers the noise
3  biases and integers of weights fitted, wherever the noise on the trying part falls
4  while the metric falls too far there: products go back to float, as few as possible, those first
   that cause the most noise for their work

For the target `ort-cpu` LSTMs take part in the last step (`dynamic_lstm`), where the model is
faster with them in integers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, rewrite, shapes
from onnxopt.margins import CAUTION
from onnxopt.model import Model
from onnxopt.model.mapped import mapped
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.quant import (
    dynamic,
    dynamic_lstm,
    equalize,
    finer,
    holding,
    readings,
    recovery,
    saturation,
    smooth,
)
from onnxopt_passes.quant.layer_fit import Item, LayerFit, Won
from onnxopt_passes.quant.plan import Plan
from onnxopt_passes.quant.saturation import LIMITS, Met

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.samples import Samples
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.dynamic import Product
    from onnxopt_passes.quant.readings import Reading
    from onnxopt_passes.quant.trial import Trial

WIDENED = "full range"
"""How plans and reports call columns that use more of int8 than a bound for any input allows."""


class DynamicSearch:
    """Finds the plan for one model.

    Args:
        model: The float model, opset 11 or later, shapes inferred; not changed.
        options: What is asked for.
        ctx: The run.
        cpu: The profile to write for.
        fit: Samples to fit to.
        trial: Samples to try on.
    """

    def __init__(
        self, model: Model, options: Quant, ctx: Context, cpu: str, fit: Samples, trial: Trial
    ) -> None:
        self.model, self.source = model, model.export()
        self.options, self.ctx, self.fit, self.trial = options, ctx, fit, trial
        self.settings = Settings(True, ctx.threads, ctx.custom_ops)
        self.saturates = cpu in ("x64", "generic")
        self.channelwise = options.granularity != "tensor"
        self.products = {p.name: p for p in dynamic.find(model)}
        self.limits = self._limits({})
        self.met: dict[str, Met] = {}
        self.won = Won()
        self.smoothing: dict[str, np.ndarray] = {}
        cells = dynamic_lstm.find(model) if ctx.target == "ort-cpu" and self.channelwise else []
        self.cells = {cell.name: cell.code(self.saturates) for cell in cells}

    def run(self) -> Plan:
        """Return a new plan.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        plan = Plan(chosen={*self.products, *self.cells})
        if self.options.recover == "auto" and self.products:
            self._recover(plan)
        work = {name: float(self._weight(p).size) for name, p in self.products.items()}
        for name, parts in self.cells.items():
            work[name] = float(sum(integers.size for integers, _ in parts))
        found = finer.coarse(self.build, work, self.trial, CAUTION * self.ctx.max_drop)
        plan.noise = found.noise
        plan.leave(plan.chosen - found.names, "it costs too much accuracy")
        self._time_cells(plan)
        return plan

    def _recover(self, plan: Plan) -> None:
        """Take the steps that lower the noise."""
        self._equalize(plan)
        self._smooth(plan)
        self._widen(plan)
        fits = self._layers()
        build = partial(self._build, set(self.products))
        plan.recovered |= fits.search("dynamic", build, self.products, self.trial, self.ctx)
        self._take_fits(fits, plan)

    def _take_fits(self, fits: LayerFit, plan: Plan) -> None:
        """Take what was won, and forget the smoothed model: `build` makes its own."""
        self.won = fits.won(plan.recovered)
        if self.smoothing:
            self.model = self._smoothed({})
            self.products = {p.name: p for p in dynamic.find(self.model)}

    def _time_cells(self, plan: Plan) -> None:
        """Leave LSTMs in float where the model is not clearly faster with them in integers."""
        cells = plan.chosen & self.cells.keys()
        if not cells or not self.options.timed:
            return
        models = self.build(plan.chosen - cells), self.build(plan.chosen)
        won, times = holding.faster(*models, self.trial, self.ctx, holding.CLEARLY)
        if not won:
            plan.leave(cells, f"an LSTM in integers is not faster here: {times}")

    def adopt(self, plan: Plan) -> None:
        """Take a plan that was made before.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        names = plan.recovered.get(equalize.STEP)
        if names:
            self._take(self._equalized(self._factors(), names))
        names = plan.recovered.get(smooth.STEP)
        if names:
            found = smooth.measure(self.model, self.fit, self.settings)
            self._take_smoothing(found, names)
        names = plan.recovered.get(WIDENED)
        if names:
            self._take_met({n: m for n, m in self._emulated().items() if n in names})
        if any(plan.recovered.values()):
            self._take_fits(self._layers(), plan)

    def _equalize(self, plan: Plan) -> None:
        """Bring channels of tensors between layers to like size, where that lowers the noise."""
        factors = self._factors()

        def build(names: Collection[str]) -> Exported:
            return self._coded(self._equalized(factors, names), self.products, self.limits)

        names = self._keep(plan, equalize.STEP, factors, build)
        if names:
            self._take(self._equalized(factors, names))

    def _keep(
        self,
        plan: Plan,
        step: str,
        able: Collection[str],
        build: Callable[[Collection[str]], Exported],
    ) -> frozenset[str]:
        """Return for what a step is kept, and note it."""
        kept = recovery.keep(step, list(able), build, self.trial)
        kept.report(self.ctx, "dynamic")
        if kept.names:
            plan.recovered[step] = kept.names
        return kept.names

    def _factors(self) -> dict[str, np.ndarray]:
        return equalize.measure(self.model, self.fit, self.settings)

    def _equalized(self, factors: Mapping[str, np.ndarray], names: Collection[str]) -> Model:
        model = Model.from_exported(self.source)
        shapes.infer(model)
        equalize.apply(model, factors, names)
        return model

    def _take(self, model: Model) -> None:
        """Go on with another model of the same products."""
        self.model, self.source = model, model.export()
        self.products = {p.name: p for p in dynamic.find(model)}
        self.limits = self._limits({})

    def _smooth(self, plan: Plan) -> None:
        """Put a Mul in front of products where that lowers the noise."""
        found = smooth.measure(self.model, self.fit, self.settings)

        def build(names: Collection[str]) -> Exported:
            some = {name: found[name] for name in names}
            return self._coded(self._smoothed(some), self.products, self.limits)

        names = self._keep(plan, smooth.STEP, found, build)
        if names:
            self._take_smoothing(found, names)

    def _smoothed(
        self, found: Mapping[str, np.ndarray], chosen: Collection[str] | None = None
    ) -> Model:
        """Return the source, shapes inferred, smoothed in front of some products or of all."""
        model = Model.from_exported(self.source)
        shapes.infer(model)
        smooth.apply(model, found, set(self.products if chosen is None else chosen))
        return model

    def _take_smoothing(self, found: Mapping[str, np.ndarray], names: Collection[str]) -> None:
        """Look at the smoothed model from now on; what is built is smoothed as far as it needs."""
        source = self.source
        self.smoothing = {name: s for name, s in found.items() if name in names}
        smoothed = mapped(self._smoothed(self.smoothing))
        shapes.infer(smoothed)
        self._take(smoothed)
        self.source = source

    def _widen(self, plan: Plan) -> None:
        """Let columns that do not saturate on samples use more of int8, where that helps."""
        met = self._emulated()

        def build(names: Collection[str]) -> Exported:
            limits = self._limits({name: met[name] for name in names})
            return self._coded(self._smoothed(self.smoothing), self.products, limits)

        names = self._keep(plan, WIDENED, met, build)
        if names:
            self._take_met({name: met[name] for name in names})

    def _take_met(self, met: dict[str, Met]) -> None:
        self.met, self.limits = met, self._limits(met)

    def _emulated(self) -> dict[str, Met]:
        """Return what inputs of products reach on samples, of those that might saturate."""
        if not self.saturates:
            return {}
        known = {id(x.node): x for x in linear.find_all(self.model.graph)}
        layers = {
            name: known[id(product.node)]
            for name, product in self.products.items()
            if id(product.node) in known and (self.limits[name] < LIMITS[0]).any()
        }
        pairs = saturation.emulated(
            self.model, list(layers.values()), self.fit, self.settings, self.ctx.seed, {}
        )
        return {
            name: replace(self._anything(name), pairs=pairs[id(layer.weight)])
            for name, layer in layers.items()
        }

    def _limits(self, met: Mapping[str, Met]) -> dict[str, np.ndarray]:
        """Return the largest magnitudes of integers, for any input where none is known."""
        if not self.saturates:
            return {}
        found = {}
        for name, product in self.products.items():
            along = dynamic.axis(product.node)
            reached = met.get(name) or self._anything(name)
            overflow = partial(dynamic.overflows, axis=along, reached=reached)
            found[name] = saturation.narrowed(self._weight(product), along, overflow)
        return found

    def _anything(self, name: str) -> Met:
        product = self.products[name]
        return dynamic.anything(self._weight(product), dynamic.axis(product.node))

    def build(self, chosen: Collection[str]) -> Exported:
        """Return the model with these products in integers."""
        return self._build(chosen, self.won)

    def _build(self, chosen: Collection[str], won: Won) -> Exported:
        return self._coded(self._smoothed(self.smoothing, chosen), chosen, self.limits, won)

    def _coded(
        self,
        model: Model,
        chosen: Collection[str],
        limits: Mapping[str, np.ndarray],
        won: Won = dynamic.NOTHING,
    ) -> Exported:
        """Return a model, shapes inferred, with these units in integers; it is used up."""
        with rewrite.editing(model):
            dynamic.place(model, chosen, limits, self.channelwise, won)
            if not self.cells.keys().isdisjoint(chosen):
                dynamic_lstm.place(model, chosen, self.cells)
        return model.export()

    def _layers(self) -> LayerFit:
        match.stamp(self.model.graph)
        layers = {id(x.node): x for x in linear.find_all(self.model.graph)}
        able = {n: p for n, p in self.products.items() if id(p.node) in layers}
        wanted = [layers[id(p.node)] for p in able.values()]
        known = readings.read(self.model, wanted, self.fit, self.settings, seed=self.ctx.seed)
        items = {}
        for name, product in able.items():
            reading = known.get(id(product.node.inputs[1]))
            if reading is not None:
                items[name] = self._item(name, reading)
        return LayerFit(items)

    def _item(self, name: str, reading: Reading) -> Item:
        product = self.products[name]
        plain = dynamic.rounded(product, self.limits, self.channelwise)
        if not self.saturates:
            return Item(reading, plain, reading.layer.biased)
        limits = self.limits[name]
        most = limits if plain.params.axis is not None else np.asarray(limits.min())
        reached = self.met.get(name) or self._anything(name)
        overflow = partial(dynamic.overflows, axis=dynamic.axis(product.node), reached=reached)
        return Item(reading, plain, reading.layer.biased, most, overflow)

    @staticmethod
    def _weight(product: Product) -> np.ndarray:
        values = match.constant(product.node.inputs[1])
        assert values is not None  # noqa: S101  # a guard of `find`
        return values

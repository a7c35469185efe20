"""Which products run in integers under dynamic quantization, and what is won back for them.

1  all of them, channels of their inputs brought to like size where that lowers the noise
2  biases and integers of weights fitted, wherever the noise on the trying part falls
3  while the metric falls too far there: products go back to float, as few as possible, those first
   that cause the most noise for their work
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.margins import CAUTION
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.quant import dynamic, equalize, finer, readings, recovery, scheme
from onnxopt_passes.quant.coded import Coded
from onnxopt_passes.quant.layer_fit import Item, LayerFit, Won
from onnxopt_passes.quant.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.samples import Samples
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.dynamic import Product
    from onnxopt_passes.quant.readings import Reading
    from onnxopt_passes.quant.trial import Trial


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
        self.narrow = cpu in ("x64", "generic")
        self.channelwise = options.granularity != "tensor"
        self.products = {p.name: p for p in dynamic.find(model)}
        self.won = Won()

    def run(self) -> Plan:
        """Return a new plan.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        plan = Plan(chosen=set(self.products))
        if self.options.recover == "auto" and self.products:
            self._equalize(plan)
            fits = self._layers()
            build = partial(self._build, plan.chosen)
            plan.recovered |= fits.search("dynamic", build, plan.chosen, self.trial, self.ctx)
            self.won = fits.won(plan.recovered)
        work = {name: float(self._weight(p).size) for name, p in self.products.items()}
        found = finer.coarse(self.build, work, self.trial, CAUTION * self.ctx.max_drop)
        plan.noise = found.noise
        plan.leave(plan.chosen - found.names, "it costs too much accuracy")
        return plan

    def adopt(self, plan: Plan) -> None:
        """Take a plan that was made before.

        Raises:
            CannotRun: onnxruntime cannot run the model on the samples.
        """
        names = plan.recovered.get(equalize.STEP)
        if names:
            self._take(self._equalized(self._factors(), names))
        if any(plan.recovered.values()):
            self.won = self._layers().won(plan.recovered)

    def _equalize(self, plan: Plan) -> None:
        """Bring channels of tensors between layers to like size, where that lowers the noise."""
        factors = self._factors()

        def build(names: Collection[str]) -> Exported:
            model = self._equalized(factors, names)
            dynamic.build(model, self.products, self.narrow, self.channelwise)
            return model.export()

        kept = recovery.keep(equalize.STEP, list(factors), build, self.trial)
        kept.report(self.ctx, "dynamic")
        if kept.names:
            plan.recovered[equalize.STEP] = kept.names
            self._take(self._equalized(factors, kept.names))

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

    def build(self, chosen: Collection[str]) -> Exported:
        """Return the model with these products in integers."""
        return self._build(chosen, self.won)

    def _build(self, chosen: Collection[str], won: Won) -> Exported:
        model = Model.from_exported(self.source)
        dynamic.build(model, chosen, self.narrow, self.channelwise, won)
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
                items[name] = self._item(product, reading)
        return LayerFit(items)

    def _item(self, product: Product, reading: Reading) -> Item:
        weight = self._weight(product)
        axis = dynamic.axis(product.node)
        params = dynamic.weight_params(weight, axis, self.narrow, self.channelwise)
        plain = Coded(weight.shape, params, scheme.quantize(weight, params))
        overflow = partial(dynamic.overflows, axis=axis) if self.narrow else None
        most = dynamic.most(plain, axis) if self.narrow else None
        return Item(reading, plain, reading.layer.biased, most, overflow)

    @staticmethod
    def _weight(product: Product) -> np.ndarray:
        values = match.constant(product.node.inputs[1])
        assert values is not None  # noqa: S101  # a guard of `find`
        return values

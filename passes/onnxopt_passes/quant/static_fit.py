"""Accuracy won back for static quantization: biases and integers fitted to what layers read.

Each layer is looked at alone, reading its input in float for what it should compute, and rounded to
uint8 for what it will. So the result for a layer is the same whatever else runs in integers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.quant import readings, recovery, refine, scheme, static
from onnxopt_passes.quant.coded import Coded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model
    from onnxopt.samples import Samples
    from onnxopt_passes.quant.plan import Plan
    from onnxopt_passes.quant.refine import Refined
    from onnxopt_passes.quant.static import Recipe
    from onnxopt_passes.quant.trial import Trial
    from onnxopt_passes.quant.units import Unit

    Build = Callable[[Collection[str], Recipe], Exported]

BIASES, ROUNDING = "bias correction", "rounding"
"""The steps, as plans and reports call them."""


class StaticFit:
    """What each unit with a weight can win back.

    Args:
        model: The float model.
        found: Units that may run in integers.
        recipe: Ranges, grids, and channels to keep narrow.
        samples: What to fit to.
        ctx: The run.

    Raises:
        CannotRun: onnxruntime cannot run the model on a sample.
    """

    def __init__(
        self, model: Model, found: Sequence[Unit], recipe: Recipe, samples: Samples, ctx: Context
    ) -> None:
        self.ctx, self.recipe = ctx, recipe
        layers = {id(x.node): x for x in linear.find_all(model.graph)}
        units = [u for u in found if u.weighted and id(u.node) in layers]
        self.units = {u.name: u for u in units if u.inputs[0].name in recipe.ranges}
        self.made: dict[str, Refined] = {}
        self.quantized = {
            name: scheme.affine(*span, recipe.activations) for name, span in recipe.ranges.items()
        }
        settings = Settings(True, ctx.threads, ctx.custom_ops)
        wanted = [layers[id(u.node)] for u in self.units.values()]
        self.readings = readings.read(model, wanted, samples, settings, self.quantized)

    def search(self, build: Build, chosen: Collection[str], trial: Trial, plan: Plan) -> Recipe:
        """Return the recipe with what lowers the noise of the trial; the plan is told which."""
        able = [name for name in self.units if name in chosen and name in self.readings]
        for step in (BIASES, ROUNDING):
            tried = [n for n in able if step == ROUNDING or self._biased(n)]

            def made(names: frozenset[str], step: str = step) -> Exported:
                return build(chosen, self._with(plan.recovered | {step: names}))

            kept = recovery.keep(step, tried, made, trial)
            kept.report(self.ctx, "static")
            plan.recovered = plan.recovered | {step: kept.names}
        return self._with(plan.recovered)

    def adopt(self, plan: Plan) -> Recipe:
        """Return the recipe with what a plan has kept."""
        return self._with(plan.recovered)

    def _biased(self, name: str) -> bool:
        return bool(self.units[name].node.op != "MatMul")

    def _with(self, recovered: Mapping[str, Collection[str]]) -> Recipe:
        """Return the recipe with these steps on these units; names that are unknown do nothing."""
        biases: dict[str, np.ndarray] = {}
        refined: dict[str, Coded] = {}
        for name in self._known(recovered.get(BIASES, ())):
            plain = self._plain(name)
            biases[name] = refine.plain(plain, self.readings[name]).offsets
        for name in self._known(recovered.get(ROUNDING, ())):
            found = self._refined(name)
            refined[name] = found.coded
            if self._biased(name):
                biases[name] = found.offsets
        floats = {name: b.astype(np.float32) for name, b in biases.items()}
        return replace(self.recipe, biases=floats, refined=refined)

    def _known(self, names: Collection[str]) -> list[str]:
        return sorted(set(names) & self.readings.keys())

    def _plain(self, name: str) -> Coded:
        """Return a unit's weight as it is without any of this."""
        unit = self.units[name]
        weight = self.readings[name].layer.weight.values
        incoming = self.quantized[unit.inputs[0].name]
        bias = static.bias_of(unit)
        params = static.weight_params(unit, weight, self.recipe, bias, incoming)
        return Coded(weight.shape, params, scheme.quantize(weight, params))

    def _refined(self, name: str) -> Refined:
        if name not in self.made:
            narrow = self.recipe.narrow.get(name)
            plain = self._plain(name)
            most = None
            if narrow is not None and narrow.any():
                full = float(self.recipe.weights.highest)
                wide = plain.params.scale.ndim > 0
                most = np.where(narrow if wide else narrow.any(), float(static.SAFE), full)
            reading = self.readings[name]
            self.made[name] = refine.refine(plain, reading, self._biased(name), most)
        return self.made[name]

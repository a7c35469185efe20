"""What layers read once their inputs are rounded to uint8, for `layer_fit`, in static mode."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.quant import readings, saturation, scheme, static
from onnxopt_passes.quant.coded import Coded
from onnxopt_passes.quant.layer_fit import Item, LayerFit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.samples import Samples
    from onnxopt_passes.quant.readings import Reading
    from onnxopt_passes.quant.saturation import Met
    from onnxopt_passes.quant.scheme import Params
    from onnxopt_passes.quant.static import Recipe
    from onnxopt_passes.quant.units import Unit


def read(
    model: Model, found: Sequence[Unit], recipe: Recipe, samples: Samples, ctx: Context
) -> LayerFit:
    """Return what units with a weight can win back.

    Args:
        model: The float model.
        found: Units that may run in integers.
        recipe: Ranges, grids, and channels to keep narrow.
        samples: What to fit to.
        ctx: The run.

    Raises:
        CannotRun: onnxruntime cannot run the model on a sample.
    """
    layers = {id(x.node): x for x in linear.find_all(model.graph)}
    able = {u.name: u for u in found if id(u.node) in layers and u.weighted}
    able = {n: u for n, u in able.items() if u.inputs[0].name in recipe.ranges}
    quantized = {
        name: scheme.affine(*span, recipe.activations) for name, span in recipe.ranges.items()
    }
    settings = Settings(True, ctx.threads, ctx.custom_ops)
    wanted = [layers[id(u.node)] for u in able.values()]
    known = readings.read(model, wanted, samples, settings, quantized, ctx.seed)
    return LayerFit(
        {
            name: _item(unit, known[id(weight)], recipe, quantized[unit.inputs[0].name])
            for name, unit in able.items()
            if id(weight := unit.node.inputs[1]) in known
        }
    )


def _item(unit: Unit, reading: Reading, recipe: Recipe, incoming: Params) -> Item:
    weight = reading.layer.weight.values
    params = static.weight_params(unit, weight, recipe, static.bias_of(unit), incoming)
    plain = Coded(weight.shape, params, scheme.quantize(weight, params))
    met = recipe.met.get(unit.name)
    overflow = None if met is None else partial(_overflow, unit, met)
    return Item(reading, plain, unit.node.op != "MatMul", _most(unit, recipe, params), overflow)


def _most(unit: Unit, recipe: Recipe, params: Params) -> np.ndarray | None:
    """Return the largest magnitude of each scale's integers, None where all have all of int8."""
    most = recipe.narrow.get(unit.name)
    if most is None or (most == static.FULL).all():
        return None
    return most if params.axis is not None else np.asarray(most.min())


def _overflow(unit: Unit, met: Met, integers: np.ndarray) -> np.ndarray:
    return saturation.overflows(unit, integers, met)

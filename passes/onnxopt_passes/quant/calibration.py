"""What samples tell before a plan is made: ranges, channels to keep narrow, units to leave out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxopt.statistics import ranges
from onnxopt_passes.quant import saturation, static, through
from onnxopt_passes.quant.scheme import GRIDS
from onnxopt_passes.quant.static import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.units import Unit

MINMAX = "minmax"
"""How ranges are chosen too, whatever the method: the least and the largest value."""


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        recipes: Numbers by how ranges were chosen: the method that was given, and `MINMAX`.
        sizes: Elements of each tensor on one sample.
        left: Units that cannot be in integers, and why.
    """

    recipes: Mapping[str, Recipe]
    sizes: Mapping[str, int]
    left: Mapping[str, str]


def calibrate(
    model: Model,
    found: Sequence[Unit],
    options: Quant,
    method: str,
    cpu: str,
    samples: Samples,
    settings: Settings,
    seed: int,
    feed: dict[str, np.ndarray],
) -> Calibration:
    """Run samples through a model.

    Args:
        model: The float model.
        found: Its units.
        options: Which grids.
        method: How ranges are chosen.
        cpu: The profile to write for.
        samples: What to fit to.
        settings: How to load it.
        seed: Seeds which rows of inputs are looked at for saturation.
        feed: One sample, for sizes.

    Raises:
        CannotRun: onnxruntime cannot run the model on the samples.
    """
    names = static.tensors(found)
    histograms = ranges.cached(model, names, samples, settings)
    recipe = Recipe(
        through.spans(found, histograms, method),
        GRIDS[_activations(options, cpu)],
        GRIDS[options.weights],
        options.granularity != "tensor",
    )
    if cpu in ("x64", "generic") and recipe.activations.name == "uint8":
        met = saturation.met(model, found, recipe, samples, settings, seed)
        known = {u.name: u for u in found}
        narrow = {name: saturation.limits(known[name], met[name]) for name in met}
        recipe = replace(recipe, narrow=narrow, met=met)
    whole = replace(recipe, ranges=through.spans(found, histograms, MINMAX))
    trouble = {name: held.trouble for name, held in histograms.items() if held.trouble}
    left = {u.name: why for u in found if (why := _reason(u, recipe, trouble))}
    sizes = ranges.sizes(model, names, feed, settings)
    return Calibration({method: recipe, MINMAX: whole}, sizes, left)


def _activations(options: Quant, cpu: str) -> str:
    if options.activations != "auto":
        return options.activations
    return "int8" if cpu == "arm64" else "uint8"


def _reason(unit: Unit, recipe: Recipe, trouble: Mapping[str, str]) -> str:
    """Return why a unit cannot be in integers, nothing if it can."""
    for tensor in (*unit.inputs, unit.output):
        if tensor.name in trouble:
            return f"tensor {tensor.name!r} holds {trouble[tensor.name]}"
    small = static.steps(unit, recipe) < static.LEAST_STEPS
    return "an input is too small for the scale of the others" if small else ""

"""Where sums of products would saturate on CPUs without VNNI, and what to narrow.

Such kernels add the products of two neighbouring elements along K in int16:

    a[2k] w[2k] + a[2k+1] w[2k+1]       with a in 0..255, w in -127..127

which leaves int16 beyond 32767. Weights within +-64 never do, but cost a bit. So the largest sum
that each output channel meets is bounded from calibration samples: each input channel's largest
integer A (its smallest is zero), so that a pair's sum is at most A w+ + A' w'+, and at least the
same of the negative parts. Only channels whose bound leaves int16 are narrowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.statistics import extremes
from onnxopt_passes.quant import scheme, static

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt_passes.quant.static import Recipe
    from onnxopt_passes.quant.units import Unit

LIMIT = 32767
"""The largest int16."""

MARGIN = 1.05
"""How much larger than on the samples a channel may become."""


def tops(
    model: Model, found: Sequence[Unit], recipe: Recipe, samples: Samples, settings: Settings
) -> dict[str, np.ndarray]:
    """Return the largest integer of each input channel of units with a weight, by name.

    Args:
        model: The float model.
        found: Its units.
        recipe: Ranges of their inputs.
        samples: What to run.
        settings: How to load it.

    Raises:
        CannotRun: onnxruntime cannot run it.
    """
    weighted = [u for u in found if u.weighted and u.inputs[0].name in recipe.ranges]
    names = list(dict.fromkeys(u.inputs[0].name for u in weighted))
    axes = {u.inputs[0].name: 1 if u.node.op == "Conv" else -1 for u in weighted}
    highest = extremes.largest(model, axes, samples, settings) if names else {}
    return {
        u.name: _integers(highest[u.inputs[0].name], recipe.ranges[u.inputs[0].name], recipe)
        for u in weighted
    }


def guilty(unit: Unit, top: np.ndarray) -> np.ndarray:
    """Return which output channels of a unit may saturate in all of int8, bool (channels,)."""
    weight = match.constant(unit.node.inputs[1])
    assert weight is not None  # noqa: S101  # a guard of the unit
    params = scheme.fit(weight, scheme.GRIDS["int8"], True, static.axis(unit.node))
    return overflows(unit, scheme.quantize(weight, params).astype(np.int64), top)


def _integers(largest: np.ndarray, span: tuple[float, float], recipe: Recipe) -> np.ndarray:
    """Return the largest integer of each input channel, int64."""
    params = scheme.affine(*span, recipe.activations)
    values = (MARGIN * np.maximum(largest, 0)).astype(np.float32)
    return scheme.quantize(values, params).astype(np.int64)


def overflows(unit: Unit, integers: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return which output channels of a unit may leave int16, bool of shape (channels,).

    Args:
        unit: The unit.
        integers: Its weight, int64.
        top: The largest integer of each input channel.
    """
    rows = _rows(unit, integers, static.axis(unit.node))
    channels, depth = rows.shape
    groups = int(match.attribute(unit.node, "group", 1)) if unit.node.op == "Conv" else 1
    inputs = top.reshape(groups, -1)
    tops = np.repeat(np.tile(inputs, depth // inputs.shape[1]), channels // groups, axis=0)
    worst = np.zeros(channels, np.int64)
    for part in (np.maximum(rows, 0), np.maximum(-rows, 0)):
        products = np.pad(part * tops, ((0, 0), (0, 1)))
        worst = np.maximum(worst, (products[:, 1:] + products[:, :-1]).max(1))
    found: np.ndarray = worst > LIMIT
    return found


def _rows(unit: Unit, weight: np.ndarray, axis: int) -> np.ndarray:
    """Return a weight as (output channels, K), input channels fastest, as kernels pack it."""
    rows = np.moveaxis(weight, axis, 0)
    if unit.node.op == "Conv":
        rows = np.moveaxis(rows, 1, -1)
    return rows.reshape(rows.shape[0], -1)

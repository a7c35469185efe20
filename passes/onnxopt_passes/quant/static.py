"""The numbers of static quantization: ranges, grids, scales of weights, biases.

A bias is int32 with the scale s_x * s_w. Where int32 would not hold it, the weight's scale is
wider.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt_passes.quant import scheme
from onnxopt_passes.quant.scheme import GRIDS, Grid, Params

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.saturation import Met
    from onnxopt_passes.quant.units import Unit

LARGEST_BIAS = 2.0**30
"""Steps that a bias may take of int32; the accumulator needs the rest."""

LEAST_STEPS = 16
"""Steps of a concatenation's scale that each of its inputs spans, at least: 4 of the 8 bits."""

FULL = 127
"""The largest magnitude of int8 that is used."""


@dataclass(frozen=True)
class Recipe:
    """All numbers that static quantization writes.

    Attributes:
        ranges: Least and largest value of activations, by tensor name.
        activations: The grid of activations.
        weights: The grid of weights.
        channelwise: Whether weights have one scale a channel.
        narrow: Largest magnitude of the integers of each output channel, by unit, (channels,);
            units that are not in it use all of int8.
        met: What inputs reach, by unit, where sums of two products saturate int16.
        biases: What is added to the bias of a unit, by its name, shape (channels,).
        refined: Integers and scales of weights that are better than rounding to nearest, by unit.
    """

    ranges: Mapping[str, tuple[float, float]]
    activations: Grid = GRIDS["uint8"]
    weights: Grid = GRIDS["int8"]
    channelwise: bool = True
    narrow: Mapping[str, np.ndarray] = field(default_factory=dict)
    met: Mapping[str, Met] = field(default_factory=dict)
    biases: Mapping[str, np.ndarray] = field(default_factory=dict)
    refined: Mapping[str, Coded] = field(default_factory=dict)


def axis(node: gs.Node) -> int:
    """Return the axis of a unit's weight that belongs to output channels."""
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if match.attribute(node, "transB", 0) else 1
    return 1


def tensors(found: Collection[Unit]) -> list[str]:
    """Return the names of the tensors whose ranges are needed, in order, once each."""
    names: dict[str, None] = {}
    for unit in found:
        names.update(dict.fromkeys(t.name for t in unit.inputs))
        names[unit.output.name] = None
    return list(names)


def steps(unit: Unit, recipe: Recipe) -> float:
    """Return how many steps of its output's scale the smallest input of a concatenation spans.

    Infinite for other units, and where a range is not known.
    """
    tensors = [unit.output, *unit.inputs]
    if unit.node.op != "Concat" or any(t.name not in recipe.ranges for t in tensors):
        return np.inf
    whole, *parts = (float(np.ptp(recipe.ranges[t.name])) for t in tensors)
    return min(parts) / whole * (2**recipe.activations.bits - 1) if whole else np.inf


def weight_params(
    unit: Unit, weight: np.ndarray, recipe: Recipe, bias: np.ndarray | None, incoming: Params
) -> Params:
    """Return the scheme of a unit's weight.

    Scales span each channel, are wider where it may not use all of int8, and wider still where the
    bias would not fit into int32.
    """
    along = axis(unit.node) if recipe.channelwise else None
    params = scheme.fit(weight, recipe.weights, True, along)
    scale = params.scale.astype(np.float64)
    most = recipe.narrow.get(unit.name)
    if most is not None:
        scale = scale * (FULL / (most if along is not None else most.min()))
    least = needed(bias, incoming)
    scale = np.maximum(scale, least if along is not None else least.max(initial=0))
    return replace(params, scale=np.asarray(scale, np.float32))


def needed(bias: np.ndarray | None, incoming: Params) -> np.ndarray:
    """Return the least scales of a weight with which int32 holds the bias; zero without one."""
    if bias is None:
        return np.zeros(1)
    return np.asarray(np.abs(bias) / (float(incoming.scale) * LARGEST_BIAS))


def bias_of(unit: Unit) -> np.ndarray | None:
    """Return the constant bias of a unit, of shape (channels,), None if it has none."""
    given = match.constant(unit.node.inputs[2]) if match.given(unit.node, 2) else None
    return None if given is None else given.reshape(-1)

"""Static quantization: where QuantizeLinear and DequantizeLinear go so that onnxruntime fuses them.

    computes   DequantizeLinear(x), DequantizeLinear(w) -> node -> QuantizeLinear
    moves      node, on the integers

Each tensor has one QuantizeLinear, right behind what makes it, so that branches that meet again
(residuals, x * sigmoid(x), concatenations) meet in integers. Its float readers read the
DequantizeLinear. A tensor that is made in float and read in integers is quantized for these readers
alone. A Relu or Clip goes where the range of the integers says the same. Biases are int32 with
the scale s_x * s_w.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt_passes.quant import scheme, units
from onnxopt_passes.quant.scheme import GRIDS, Grid, Params

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnxopt.model import Model
    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.units import Unit

LARGEST_BIAS = 2.0**30
"""Steps that a bias may take of int32; the accumulator needs the rest."""

SAFE = 64
"""A weight up to here cannot saturate: 2 * 255 * 64 < 2^15."""


@dataclass(frozen=True)
class Recipe:
    """All numbers that static quantization writes.

    Attributes:
        ranges: Least and largest value of activations, by tensor name.
        activations: The grid of activations.
        weights: The grid of weights.
        channelwise: Whether weights have one scale a channel.
        narrow: Indices of output channels whose weights stay within +-64, by unit; others use
            all of int8.
        tops: The largest integer of each input channel, by unit, where sums of two products
            saturate int16.
        biases: What is added to the bias of a unit, by its name, shape (channels,).
        refined: Integers and scales of weights that are better than rounding to nearest, by unit.
    """

    ranges: Mapping[str, tuple[float, float]]
    activations: Grid = GRIDS["uint8"]
    weights: Grid = GRIDS["int8"]
    channelwise: bool = True
    narrow: Mapping[str, np.ndarray] = field(default_factory=dict)
    tops: Mapping[str, np.ndarray] = field(default_factory=dict)
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


def place(model: Model, chosen: Collection[str], recipe: Recipe) -> list[str]:
    """Make units run in integers; return the names of those that do.

    Args:
        model: Edited in place, inside `rewrite.editing`; opset 13 or later, shapes inferred.
        chosen: Names of units of the main graph.
        recipe: The numbers.
    """
    placer = _Placer(model.graph, recipe)
    found = [u for u in units.find(model.graph) if u.name in chosen]
    done = [unit.name for unit in found if placer.put(unit)]
    placer.finish()
    return done


@dataclass(frozen=True)
class _Integers:
    """A tensor in integers, and its scheme."""

    tensor: gs.Tensor
    params: Params


class _Placer:
    def __init__(self, graph: gs.Graph, recipe: Recipe) -> None:
        self.graph, self.recipe = graph, recipe
        self.integers: dict[int, _Integers] = {}
        self.floats: dict[int, gs.Tensor] = {}
        self.tied: dict[tuple[int, bytes], gs.Constant] = {}

    def put(self, unit: Unit) -> bool:
        """Make one unit run in integers; False if it has no range."""
        sources = [t for t in unit.inputs if id(t) not in self.integers]
        if any(self._params(t) is None for t in sources):
            return False
        if unit.moves:
            return not sources and self._move(unit)
        params = self._output(unit)
        if params is None:
            return False
        node = unit.node
        inputs = list(node.inputs)
        for i, tensor in enumerate(inputs):
            if any(tensor is t for t in unit.inputs):
                inputs[i] = self._dequantized(tensor)
            elif not unit.weighted and tensor.name and node.op in ("Add", "Mul", "Concat"):
                inputs[i] = self._constant(unit, i, tensor)
        if unit.weighted:
            inputs = self._weighted(unit, inputs)
        node.inputs = inputs
        self._requantize(unit, params)
        return True

    def _params(self, tensor: gs.Tensor) -> Params | None:
        span = self.recipe.ranges.get(tensor.name)
        return None if span is None else scheme.affine(*span, self.recipe.activations)

    def _output(self, unit: Unit) -> Params | None:
        """Return the scheme of a unit's output; that of a bounded activation stays within it."""
        span = self.recipe.ranges.get(unit.output.name)
        if span is None:
            return None
        limits = None if unit.activation is None else units.bounds(unit.activation)
        if limits is not None:
            span = max(span[0], limits[0]), min(span[1], limits[1])
        return scheme.affine(*span, self.recipe.activations)

    def _source(self, tensor: gs.Tensor) -> _Integers:
        """Return the integers of a tensor, quantized here if nobody has done it."""
        found = self.integers.get(id(tensor))
        if found is None:
            params = self._params(tensor)
            assert params is not None  # noqa: S101  # `put` has asked
            made = self._variable(f"{tensor.name}.quantized", params)
            self._node("QuantizeLinear", tensor, made, params)
            found = self.integers[id(tensor)] = _Integers(made, params)
            self.floats[id(tensor)] = self._dequantize(tensor.name, found)
        return found

    def _dequantized(self, tensor: gs.Tensor) -> gs.Tensor:
        self._source(tensor)
        return self.floats[id(tensor)]

    def _dequantize(self, name: str, source: _Integers) -> gs.Tensor:
        out = gs.Variable(f"{name}.dequantized", np.float32)
        self._node("DequantizeLinear", source.tensor, out, source.params)
        return out

    def _requantize(self, unit: Unit, params: Params) -> None:
        """Put the integers, and floats made of them, in place of what a unit makes."""
        old: gs.Tensor = unit.output
        node = unit.node
        inner = gs.Variable(f"{old.name}.float", np.float32)
        if unit.activation is not None:
            match.remove(unit.activation)
        node.outputs = [inner]
        made = self._variable(f"{old.name}.quantized", params)
        self._node("QuantizeLinear", inner, made, params)
        self._node("DequantizeLinear", made, old, params)
        self.integers[id(old)] = _Integers(made, params)
        self.floats[id(old)] = old

    def _move(self, unit: Unit) -> bool:
        source = self._source(unit.inputs[0])
        params, node, old = source.params, unit.node, list(unit.node.outputs)
        if node.op == "Relu":
            node.op = "Clip"
            node.inputs = [source.tensor, self._held(f"{unit.name}.zero", params.zero_point)]
        else:
            node.inputs = [source.tensor, *node.inputs[1:]]
        if node.op == "Pad":
            value = self._held(f"{unit.name}.zero", params.zero_point)
            node.inputs = [*node.inputs[:2], value, *node.inputs[3:]]
        made = [self._variable(f"{t.name}.quantized", params) for t in old]
        node.outputs = list(made)
        for tensor, integers in zip(old, made, strict=True):
            self._node("DequantizeLinear", integers, tensor, params)
            self.integers[id(tensor)] = _Integers(integers, params)
            self.floats[id(tensor)] = tensor
        return True

    def _constant(self, unit: Unit, index: int, tensor: gs.Tensor) -> gs.Tensor:
        values = match.constant(tensor)
        assert values is not None  # noqa: S101  # inputs that are not constant are activations
        params = scheme.fit(values, self.recipe.activations, False)
        held = self._held(f"{unit.name}.constant{index}", scheme.quantize(values, params))
        return self._dequantize(held.name, _Integers(held, params))

    def _weighted(self, unit: Unit, inputs: list[gs.Tensor]) -> list[gs.Tensor]:
        node = unit.node
        weight = match.constant(node.inputs[1])
        assert weight is not None  # noqa: S101  # a guard of the unit
        bias = bias_of(unit)
        extra = self.recipe.biases.get(unit.name)
        if extra is not None:
            bias = extra if bias is None else bias + extra
        incoming = self.integers[id(unit.inputs[0])].params
        refined = self.recipe.refined.get(unit.name)
        params = weight_params(unit, weight, self.recipe, bias, incoming)
        if refined is not None and (refined.params.scale >= needed(bias, incoming)).all():
            params, integers = refined.params, refined.integers
        else:
            integers = scheme.quantize(weight, params)
        held = self.tied.setdefault(
            (id(node.inputs[1]), params.scale.tobytes()),
            self._held(f"{unit.name}.weight", integers),
        )
        inputs = [*inputs[:1], self._dequantize(f"{unit.name}.weight", _Integers(held, params))]
        if bias is not None:
            inputs.append(self._bias(unit, bias, incoming, params))
        return inputs

    def _bias(self, unit: Unit, bias: np.ndarray, incoming: Params, params: Params) -> gs.Tensor:
        scale = (incoming.scale * params.scale).astype(np.float32)
        along = 0 if params.axis is not None else None
        steps = Params(scale, np.zeros(scale.shape, np.int32), GRIDS["int32"], along)
        held = self._held(f"{unit.name}.bias", scheme.quantize(bias, steps))
        return self._dequantize(held.name, _Integers(held, steps))

    def _held(self, name: str, values: np.ndarray) -> gs.Constant:
        return gs.Constant(
            name, np.asarray(values, order="C")
        )  # ascontiguousarray makes a scalar 1-d

    def _variable(self, name: str, params: Params) -> gs.Variable:
        return gs.Variable(name, params.grid.dtype)

    def _node(self, op: str, source: gs.Tensor, out: gs.Tensor, params: Params) -> None:
        """Insert a QuantizeLinear or DequantizeLinear; zero points of biases are left out."""
        parts = [source, self._held(f"{out.name}.scale", params.scale)]
        if params.grid.bits <= 16:
            parts.append(self._held(f"{out.name}.zero_point", params.zero_point))
        attrs = {} if params.axis is None else {"axis": params.axis}
        match.insert(self.graph, gs.Node(op, f"{out.name}.{op}", attrs, parts, [out]))

    def finish(self) -> None:
        """Drop what nothing reads, and what was detached."""
        for node in self.graph.nodes:
            if node.op == "DequantizeLinear" and node.outputs:
                out = node.outputs[0]
                if not out.outputs and not match.fetched(out):
                    match.remove(node)
        self.graph.nodes[:] = [n for n in self.graph.nodes if not getattr(n, "removed", False)]


def weight_params(
    unit: Unit, weight: np.ndarray, recipe: Recipe, bias: np.ndarray | None, incoming: Params
) -> Params:
    """Return the scheme of a unit's weight.

    Scales span each channel, are wider where it may only use +-64, and wider still where the bias
    would not fit into int32.
    """
    along = axis(unit.node) if recipe.channelwise else None
    params = scheme.fit(weight, recipe.weights, True, along)
    scale = params.scale.astype(np.float64)
    narrow = recipe.narrow.get(unit.name)
    if narrow is not None and narrow.any():
        mask = narrow if along is not None else narrow.any()
        scale = np.where(mask, scale * (127 / SAFE), scale)
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

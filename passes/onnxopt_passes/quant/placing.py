"""Static quantization: where QuantizeLinear and DequantizeLinear go so that onnxruntime fuses them.

    computes   DequantizeLinear(x), DequantizeLinear(w) -> node -> QuantizeLinear
    moves      node, on the integers

Each tensor has one QuantizeLinear, right behind what makes it, so that branches that meet again
(residuals, x * sigmoid(x), concatenations) meet in integers. Its float readers read the
DequantizeLinear. A tensor that is made in float and read in integers is quantized for these readers
alone. A Relu or Clip goes where the range of the integers says the same. Biases are int32 with
the scale s_x * s_w. Convolutions of images read channels of zeros beside (`fours`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt_passes.quant import fours, gating, scheme, static, units
from onnxopt_passes.quant.scheme import GRIDS, Params

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxopt.model import Model
    from onnxopt_passes.quant.static import Recipe
    from onnxopt_passes.quant.units import Unit


def place(model: Model, chosen: Collection[str], recipe: Recipe) -> list[str]:
    """Make units run in integers; return the names of those that do.

    Args:
        model: Edited in place, inside `rewrite.editing`; opset 13 or later, shapes inferred.
        chosen: Names of units of the main graph.
        recipe: The numbers.
    """
    found = [u for u in units.find(model.graph) if u.name in chosen]
    placer = _Placer(model.graph, recipe, found)
    done = [unit.name for unit in found if placer.put(unit)]
    placer.finish()
    return done


@dataclass(frozen=True)
class _Integers:
    """A tensor in integers, and its scheme."""

    tensor: gs.Tensor
    params: Params


class _Placer:
    def __init__(self, graph: gs.Graph, recipe: Recipe, found: Sequence[Unit]) -> None:
        self.graph, self.recipe = graph, recipe
        convs = [u for u in found if u.node.op == "Conv"]
        self.missing = {u.name: fours.missing(u.inputs[0]) for u in convs}
        self.widened: dict[int, gs.Tensor] = {}
        self.integers: dict[int, _Integers] = {}
        self.floats: dict[int, gs.Tensor] = {}
        self.tied: dict[tuple[int, int, bytes], gs.Constant] = {}

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
        if node.op in gating.OPS:
            return self._gate(unit, params)
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

    def _gate(self, unit: Unit, params: Params) -> bool:
        """Write HardSigmoid as an addition that saturates, HardSwish with a product behind it."""
        node, old = unit.node, unit.output
        source = self._dequantized(unit.inputs[0])
        held, steps = gating.shift(node, self.recipe.activations)
        constant = self._held(f"{unit.name}.shift", held)
        terms = [source, self._dequantize(constant.name, _Integers(constant, steps))]
        summed, read = gating.schemes(node, self.recipe.activations)
        total = gs.Variable(f"{unit.name}.shifted", np.float32)
        made = self._variable(f"{unit.name}{gating.SUFFIX}.quantized", summed)
        self._node("QuantizeLinear", total, made, summed)
        if node.op == "HardSigmoid":
            node.op, node.attrs, node.inputs, node.outputs = "Add", {}, terms, [total]
            self._node("DequantizeLinear", made, old, read)
            self.integers[id(old)], self.floats[id(old)] = _Integers(made, read), old
            return True
        name = f"{unit.name}{gating.SUFFIX}"
        match.insert(self.graph, gs.Node("Add", name, {}, terms, [total]))
        node.op, node.inputs = "Mul", [source, self._dequantize(name, _Integers(made, read))]
        self._requantize(unit, params)
        return True

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
        bias = static.bias_of(unit)
        extra = self.recipe.biases.get(unit.name)
        if extra is not None:
            bias = extra if bias is None else bias + extra
        incoming = self.integers[id(unit.inputs[0])].params
        refined = self.recipe.refined.get(unit.name)
        params = static.weight_params(unit, weight, self.recipe, bias, incoming)
        if refined is not None and (refined.params.scale >= static.needed(bias, incoming)).all():
            params, integers = refined.params, refined.integers
        else:
            integers = scheme.quantize(weight, params)
        more = self.missing.get(unit.name, 0)
        if more:
            inputs[0] = self._wide(unit.inputs[0], more)
            integers = fours.padded(integers, 1, more)
        held = self.tied.setdefault(
            (id(node.inputs[1]), more, params.scale.tobytes()),
            self._held(f"{unit.name}.weight", integers),
        )
        inputs = [*inputs[:1], self._dequantize(f"{unit.name}.weight", _Integers(held, params))]
        if bias is not None:
            inputs.append(self._bias(unit, bias, incoming, params))
        return inputs

    def _wide(self, tensor: gs.Tensor, more: int) -> gs.Tensor:
        """Return a tensor with channels of zeros behind its own, dequantized."""
        if id(tensor) not in self.widened:
            source, rank = self._source(tensor), len(shapes.dims(tensor) or ())
            before, after = np.zeros((2, rank), np.int64)
            after[1] = more
            name = f"{tensor.name}.wide"
            pads = self._held(f"{name}.pads", np.concatenate([before, after]))
            zero = self._held(f"{name}.zero", source.params.zero_point)
            wide = self._variable(name, source.params)
            inputs = [source.tensor, pads, zero]
            match.insert(self.graph, gs.Node("Pad", f"{name}.Pad", {}, inputs, [wide]))
            self.widened[id(tensor)] = self._dequantize(name, replace(source, tensor=wide))
        return self.widened[id(tensor)]

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

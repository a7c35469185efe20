"""Channels brought to like size between layers, without a change of what the model computes.

    y = W2 f(W1 x + b1)  =  (W2 S) f(S^-1 W1 x + S^-1 b1)       f(s a) = s f(a) for s > 0

S is diagonal: one factor a channel of the tensor between the layers, so that one scale for the
whole tensor serves all of its channels (cross-layer equalization, Nagel et al. 2019). Where the
first is a LayerNormalization, S goes into its scale and bias (SmoothQuant, Xiao et al. 2023). f may
be attention, W1 x being its values (`attended`). With A the largest magnitude of a channel, and B
that of the weights that read it:

    s = A^alpha / B^(1 - alpha)         alpha 1/2, and 1 where only depthwise layers read it: their
                                        weights have scales of their own

rounded to powers of two, so that floats keep all of their bits. Clip is no such f: its bounds would
have to differ from channel to channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics import Linear, extremes, linear
from onnxopt.statistics.im2col import ConvLinear
from onnxopt_passes.quant import attended

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples

STEP = "equalization"
"""How plans and reports call it."""

PASSED = ("Relu", "LeakyRelu", "PRelu")
"""Ops f that keep channels apart and grow as their input does, on any axis."""

POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
"""The same where channels are axis 1."""

LARGEST = 4
"""The logarithm to base two of the largest factor, and of the least one."""


@dataclass(frozen=True)
class Pair:
    """A tensor between layers.

    Attributes:
        tensor: What the second layers read.
        first: The layer that makes it, or a LayerNormalization.
        seconds: All that read it.
    """

    tensor: gs.Tensor
    first: Linear | gs.Node
    seconds: tuple[Linear, ...]

    @property
    def spatial(self) -> bool:
        """Whether channels are axis 1, not the last one."""
        return isinstance(self.first, ConvLinear)

    def factors(self, largest: np.ndarray) -> np.ndarray:
        """Return S for the largest magnitudes of the tensor's channels."""
        read = np.max([_reach(layer) for layer in self.seconds], axis=0)
        seen = (largest > 0) & (read > 0)
        alone = all(layer.shape[0] == len(largest) for layer in self.seconds)
        power = 1.0 if alone else 0.5
        a, b = (np.log2(np.where(seen, v, 1.0)) for v in (largest, read))
        exponent = power * a - (1 - power) * b
        exponent -= exponent[seen].mean() if seen.any() else 0.0
        steps = np.clip(np.rint(exponent), -LARGEST, LARGEST)
        return np.asarray(np.exp2(np.where(seen, steps, 0.0)))

    def apply(self, factors: np.ndarray) -> None:
        """Divide the tensor by S, and multiply the weights that read it."""
        if isinstance(self.first, Linear):
            groups, outputs, _ = self.first.shape
            matrix = self.first.matrix() / factors.reshape(groups, outputs, 1)
            has_bias = self.first.bias is not None
            self.first.write(matrix, self.first.offsets() / factors if has_bias else None)
        else:
            for part in self.first.inputs[1:3]:
                assert isinstance(part, ir.Constant)  # noqa: S101  # a guard of `find`
                part.values = (part.values / factors).astype(part.values.dtype)
        for layer in self.seconds:
            columns = np.repeat(factors.reshape(layer.shape[0], -1), layer.taps, axis=1)
            layer.write(layer.matrix() * columns[:, None, :])


def _reach(layer: Linear) -> np.ndarray:
    """Return the largest magnitude of the weights of each input channel."""
    groups, _, inputs = layer.shape
    return np.asarray(
        np.abs(layer.matrix()).max(1).reshape(groups * inputs // layer.taps, -1).max(1)
    )


def find(model: Model) -> dict[str, Pair]:
    """Return the tensors of the main graph that can be equalized, by name."""
    layers = linear.find_all(model.graph)
    by_node = {id(layer.node): layer for layer in layers}
    firsts: list[tuple[Linear | gs.Node, gs.Tensor]] = [(x, x.output) for x in layers if _own(x)]
    firsts += [(n, n.outputs[0]) for n in model.graph.nodes if _norm(n)]
    found = {}
    for first, output in firsts:
        spatial = isinstance(first, ConvLinear)
        tensor = _behind(model.graph, output, spatial)
        seconds = [by_node.get(id(n)) for n in tensor.outputs]
        able = [x for x in seconds if x is not None and isinstance(x, ConvLinear) == spatial]
        if not seconds or len(able) < len(seconds) or match.fetched(tensor):
            continue
        if all(x.source is tensor for x in able):
            found[tensor.name] = Pair(tensor, first, tuple(able))
    return found


def _own(layer: Linear) -> bool:
    """Whether a layer's bias, if it has one, is its own."""
    return layer.bias is None or len(layer.bias.outputs) == 1


def _norm(node: gs.Node) -> bool:
    """Whether a node is a LayerNormalization of the last axis with its own scale and bias."""
    if not match.is_op(node, "LayerNormalization") or match.attribute(node, "axis", -1) != -1:
        return False
    parts = node.inputs[1:3]
    return all(
        isinstance(p, ir.Constant) and len(p.outputs) == 1 and p.values.ndim == 1 for p in parts
    )


def _behind(graph: gs.Graph, tensor: gs.Tensor, spatial: bool) -> gs.Tensor:
    """Return what stands behind the ops that factors pass through."""
    ops = (*PASSED, *POOLS) if spatial else PASSED
    tensor = tensor if spatial else attended.behind(graph, tensor) or tensor
    while (reader := match.sole_reader(graph, tensor, *ops)) is not None:
        slope = reader.inputs[1] if reader.op == "PRelu" else None
        if reader.inputs[0] is not tensor or len(reader.outputs) != 1:
            break
        if slope is not None and match.constant(slope) is None:
            break
        tensor = reader.outputs[0]
    return tensor


def measure(model: Model, samples: Samples, settings: Settings) -> dict[str, np.ndarray]:
    """Return S for each tensor that can be equalized; those that would not change are left out.

    Raises:
        CannotRun: onnxruntime cannot run the model on a sample.
    """
    pairs = find(model)
    if not pairs:
        return {}
    axes = {name: 1 if pair.spatial else -1 for name, pair in pairs.items()}
    largest = extremes.largest(model, axes, samples, settings, magnitude=True)
    found = {name: pair.factors(largest[name]) for name, pair in pairs.items()}
    return {name: s for name, s in found.items() if np.isfinite(s).all() and (s != 1).any()}


def apply(model: Model, factors: Mapping[str, np.ndarray], names: Collection[str]) -> None:
    """Equalize some tensors of a model in place, all factors as `measure` found them."""
    pairs = find(model)
    for name, s in factors.items():
        if name in names:
            pairs[name].apply(s)

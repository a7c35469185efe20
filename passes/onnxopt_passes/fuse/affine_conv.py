"""Arithmetic with constants before a layer  ->  layer(x, W', b').

The layers are Conv, ConvTranspose, Gemm and MatMul.

op(x * k + d, W, b)         W' = W * k, b' = b + W . d       the node goes
op((x * k) + d, W, b)       op(x + d / k, W * k, b)          the Mul goes where d has to stay

k and d are one value, or one a channel. What is scaled may pass other nodes on its way to the
layers: those that are linear in it, and for k > 0 those that keep order. All readers, and all of
theirs, must end in layers with constant weights that can take it in, else nothing is done. The
shift d is only for layers without padding, see `inlet`.

x + d / k rounds as x * k + d does, scaled by 1 / k. So that no finite sum gets infinite, |d / k| is
below half of the largest number's last digit. Products with other tensors may be scaled 1024-fold
at most, not in float16: they are what could overflow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse.conv_bn import parameters
from onnxopt_passes.fuse.inlet import Inlet, inlet
from onnxopt_passes.fuse.term import OPS, clipped, gated, gelu, normalised, read, vector

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

DEPTH = 8
"""How many nodes a factor may pass."""

RANGE = 1024.0
"""Largest factor, and inverse of the smallest, that passes products with other tensors."""

ORDERED = ("Relu", "LeakyRelu", "MaxPool")
"""f(x * k) = f(x) * k for k > 0."""

MEANS = ("GlobalAveragePool", "AveragePool")
"""f(x * k) = f(x) * k; channels stay where they are."""

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""f(x * k) = f(x) * k, but channels may get elsewhere."""


@dataclass(frozen=True)
class Affine:
    """What happened to a tensor on its way: x * k + d.

    Attributes:
        k: One factor, or one a channel.
        d: One summand, or one a channel.
        axis: Where the channels are; None for single values.
        rank: Rank of the tensor, where there is an axis.
        dtype: Element type of the tensor.
    """

    k: np.ndarray
    d: np.ndarray
    axis: int | None
    rank: int | None
    dtype: np.dtype

    @property
    def shifts(self) -> bool:
        """Whether it is more than a factor."""
        return bool(self.d.any())

    @property
    def moderate(self) -> bool:
        """Whether leaving it out of sums and products keeps them finite."""
        sizes = np.abs(self.k)
        return bool(self.dtype != np.float16 and sizes.min() >= 1 / RANGE and sizes.max() <= RANGE)


@dataclass(frozen=True)
class Edit:
    """New inputs for a node that takes something in; a Gemm's `beta` may be in its new bias."""

    node: gs.Node
    inputs: list[gs.Tensor]
    beta: bool = False


def fuse_affine_forward(graph: gs.Graph, node: gs.Node) -> bool:
    """Fold arithmetic with constants, or a BatchNormalization, into the layers that read it."""
    found = None if graph.opset < 7 else _affine(graph, node)  # broadcast was an attribute
    if found is None:
        return False
    source, affine = found
    out = node.outputs[0]
    if match.quantized(source, out) or gelu(source) or gated(source) or normalised(graph, source):
        return False
    edits = _taken(graph, out, affine, set(), DEPTH)
    if edits is None:
        return _exchange(graph, node)

    _commit(edits)
    match.replace(out, source)
    match.remove(node)
    return True


def _affine(graph: gs.Graph, node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """Return what a node reads and does to it, if that is affine in each channel."""
    if node.op == "BatchNormalization":
        return _normalisation(graph, node)
    term = read(graph, node)
    found = None if term is None else vector(term.values, term.source)
    if term is None or found is None or not term.k.all():
        return None
    values, axis = found
    k, d = (values, np.zeros(1)) if term.scales else (term.k.reshape(1), values)
    dims = shapes.dims(term.source)
    return term.source, Affine(k, d, axis, None if dims is None else len(dims), term.dtype)


def _normalisation(graph: gs.Graph, bn: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    found = parameters(graph, bn)
    dims = shapes.dims(bn.inputs[0])
    if found is None or dims is None or len(dims) < 2:
        return None
    k, d, dtype = found
    if not (np.isfinite(k).all() and np.isfinite(d).all() and k.all()):
        return None
    return bn.inputs[0], Affine(k, d, 1, len(dims), dtype)


def _exchange(graph: gs.Graph, node: gs.Node) -> bool:
    """Turn `(x * k) + d` into `x + d / k`, and let the readers take in k."""
    outer = read(graph, node)
    inner = None if outer is None else read(graph, match.sole(graph, outer.source, "Mul", "Div"))
    if outer is None or not outer.shifts or inner is None or inner.dtype != outer.dtype:
        return False
    found = vector(inner.values, inner.source)
    if found is None or not inner.k.all():
        return False
    source, dims = inner.source, shapes.dims(inner.source)
    if gelu(source) or match.quantized(source, outer.source):
        return False
    with np.errstate(all="ignore"):
        values = outer.d / inner.k
    if values.size > max(outer.d.size, inner.k.size):
        return False
    if found[1] is not None and (dims is None or outer.d.ndim > len(dims)):
        return False
    if np.abs(values).max() >= _half_digit(outer.dtype):
        return match.miss("the shift divided by the factor gets too large")
    rank = None if dims is None else len(dims)
    factor = Affine(found[0], np.zeros(1), found[1], rank, outer.dtype)
    edits = _taken(graph, node.outputs[0], factor, set(), DEPTH)
    if edits is None:
        return False

    _commit(edits)
    out = node.outputs[0]
    match.remove(inner.node)
    node.op = "Add"
    node.inputs = [source, ir.Constant(f"{out.name}.shift", np.asarray(values, outer.dtype))]
    return True


def _half_digit(dtype: np.dtype) -> float:
    """Return half of what the last digit of the largest number is worth."""
    found = np.finfo(dtype)
    return float(found.max) * float(found.eps) / 4


def _commit(edits: list[Edit]) -> None:
    for edit in edits:
        edit.node.inputs = edit.inputs
        if edit.beta:
            edit.node.attrs.pop("beta", None)


def _taken(
    graph: gs.Graph, tensor: gs.Tensor, affine: Affine, seen: set[int], depth: int
) -> list[Edit] | None:
    """Return how all readers of a tensor would take in what happened to it; None if one cannot."""
    if match.fetched(tensor) or not tensor.outputs or not depth:
        return None
    edits: list[Edit] = []
    for node in tensor.outputs:
        if id(node) in seen or not match.here(graph, node):
            return None
        seen.add(id(node))
        layer = inlet(graph, node, tensor)
        if layer is not None:
            found = _absorbed(graph, layer, affine)
        else:
            passed = _passed(graph, node, tensor, affine)
            found = (
                None if passed is None else _taken(graph, node.outputs[0], passed, seen, depth - 1)
            )
        if found is None:
            if edits:
                match.miss(f"{ir.label(node)} reads it too, and cannot take it in")
            return None
        edits += found
    return edits


def _passed(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor, affine: Affine) -> Affine | None:
    """Return what is left to do behind a node if it is left out before; None if unknown."""
    if [i for i, t in enumerate(node.inputs) if t is tensor] != [0] and node.op != "Mul":
        return None
    if any(match.fetched(t) or t.outputs for t in node.outputs[1:]):
        return None
    if match.is_op(node, *ORDERED):
        return affine if not affine.shifts and (affine.k > 0).all() else None
    if match.is_op(node, *MEANS):
        whole = node.op == "GlobalAveragePool"
        return affine if affine.moderate and (whole or not affine.shifts) else None
    if match.is_op(node, *MOVES):
        return affine if affine.axis is None else None
    if match.is_op(node, "Mul"):
        return None if clipped(graph, tensor) else _multiplied(node, tensor, affine)
    return None


def _multiplied(node: gs.Node, tensor: gs.Tensor, affine: Affine) -> Affine | None:
    """Pass a product with another tensor."""
    others = [t for t in node.inputs if t is not tensor]
    if len(others) != 1 or affine.shifts or not affine.moderate:
        return None
    if gelu(others[0]) or match.constant(others[0]) is not None:
        return None
    if affine.axis is None:
        return replace(affine, rank=None)
    dims = shapes.dims(node.outputs[0])
    return affine if dims is not None and len(dims) == affine.rank else None


def _absorbed(graph: gs.Graph, layer: Inlet, affine: Affine) -> list[Edit] | None:
    """Return how a layer takes in what happened to its input; None where a guard does not hold."""
    node = layer.node
    if layer.dtype != affine.dtype or match.quantized(node.inputs[0], node.outputs[0]):
        return None
    if affine.axis is not None:
        last = node.op in ("Gemm", "MatMul")
        if affine.axis != ((affine.rank or 0) - 1 if last else 1):
            return None
        if layer.channels != max(affine.k.size, affine.d.size):
            return None
    inputs = list(node.inputs)
    if (affine.k != 1).any():
        weight = layer.scaled(graph, affine.k)
        if weight is None:
            match.miss(f"others read the weights of {ir.label(node)} too, or they overflow")
            return None
        inputs[1] = weight
    if not affine.shifts:
        return [Edit(node, inputs)]
    summand = layer.shifted(affine.d)
    if summand is None:
        match.miss(f"{ir.label(node)} pads with zeros, which are not shifted")
        return None
    if node.op == "MatMul":
        return _added(graph, node, inputs, summand)
    bias = layer.biased(summand)
    return None if bias is None else [Edit(node, [*inputs[:2], bias], beta=True)]


def _added(
    graph: gs.Graph, node: gs.Node, inputs: list[gs.Tensor], summand: np.ndarray
) -> list[Edit] | None:
    """Let the bias that is added to a MatMul take in what its input is shifted by."""
    adder = match.sole_reader(graph, node.outputs[0], "Add")
    if adder is None or match.fetched(node.outputs[0]):
        return None
    place = 1 if adder.inputs[0] is node.outputs[0] else 0
    values = match.constant(adder.inputs[place])
    if values is None or values.dtype not in layers.FLOATS or values.size not in (1, summand.size):
        return None
    if values.ndim > 1 or match.quantized(node.outputs[0], adder.outputs[0]):
        return None
    with np.errstate(all="ignore"):
        result = layers.rounded(values + summand, values.dtype)
    if result is None:
        return None
    both = list(adder.inputs)
    both[place] = ir.Constant(f"{adder.outputs[0].name}.bias", result)
    return [Edit(node, inputs), Edit(adder, both)]


RULES: tuple[Rule, ...] = (
    Rule("affine_forward", (*OPS, "BatchNormalization"), fuse_affine_forward),
)
"""The rule of this file."""

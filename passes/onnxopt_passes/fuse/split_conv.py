"""Split(f(Conv(x, W, b)))  ->  f(Conv(x, W1, b1)), f(Conv(x, W2, b2)), ...        by channels.

f is an activation, or none; x * Sigmoid(x) is one too. The same products and sums, in as many
Convs as there are parts. onnxruntime keeps what is between Convs in blocks of channels, which Split
is not implemented for: a Split in a CSP block, and the Concat behind it, cost four copies.

For onnxruntime on CPUs only: float32, images of two axes, whole blocks of channels, one group. The
weights are constant, and nobody else reads them or what is in between. For `ort-cpu` only: kept
where it measures faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BLOCK = 16
"""Channels in a block with AVX-512; 8 with AVX2."""

ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Clip", "Elu")

GATES = ("Sigmoid", "HardSigmoid")
"""f of an activation x * f(x)."""

SIZES_AS_INPUT = 13
"""Split takes its sizes as an input from this opset on."""


@dataclass(frozen=True)
class Source:
    """A Conv and the activation behind it.

    Attributes:
        conv: The Conv.
        activation: What is computed from its output, in order: nothing, f, or f and a product.
    """

    conv: gs.Node
    activation: tuple[gs.Node, ...]


def split_conv(graph: gs.Graph, node: gs.Node) -> bool:
    """Give each part of a Split a Conv of its own."""
    source = _source(graph, node.inputs[0])
    bounds = None if source is None else _bounds(graph, node)
    if source is None or bounds is None or not _plain(graph, source.conv):
        return False
    if any(b % BLOCK for b in bounds):
        return match.miss(f"its parts are no multiples of {BLOCK} channels")
    held = [match.constant(t) for t in source.conv.inputs[1:] if t.name]
    weights = [values for values in held if values is not None]
    if len(weights) != len(held) or any(len(values) != bounds[-1] for values in weights):
        return False
    if match.quantized(node.inputs[0], node.outputs[0]):
        return False

    for (start, stop), out in zip(pairwise(bounds), node.outputs, strict=True):
        _part(graph, source, [w[start:stop] for w in weights], out)
    for old in (node, *source.activation, source.conv):
        match.remove(old)
    return True


def _source(graph: gs.Graph, tensor: gs.Tensor) -> Source | None:
    """Return what makes a tensor, if it is a Conv with or without an activation behind it."""
    node = match.sole(graph, tensor)
    if node is None or match.is_op(node, "Conv"):
        return None if node is None else Source(node, ())
    if match.is_op(node, *ACTIVATIONS):
        conv = match.sole(graph, node.inputs[0], "Conv")
        return None if conv is None else Source(conv, (node,))
    if not match.is_op(node, "Mul"):
        return None
    for x, gated in (node.inputs, reversed(node.inputs)):
        gate, conv = match.sole(graph, gated, *GATES), match.producer(x)
        if gate is None or conv is None or gate.inputs[0] is not x or match.fetched(x):
            continue
        if match.is_op(conv, "Conv") and match.here(graph, conv) and len(x.outputs) == 2:
            return Source(conv, (gate, node))
    return None


def _bounds(graph: gs.Graph, node: gs.Node) -> list[int] | None:
    """Return where the parts of a Split of channels begin and end."""
    dims, axis = shapes.dims(node.inputs[0]), match.attribute(node, "axis", 0)
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int) or axis not in (1, -3):
        return None
    sizes = match.integers(node, 1, "split")
    if sizes is None and not (match.given(node, 1) or "split" in node.attrs):
        sizes = [dims[1] // len(node.outputs)] * len(node.outputs)
    if sizes is None or len(sizes) != len(node.outputs) or sum(sizes) != dims[1]:
        return None
    return [0, *(int(n) for n in np.cumsum(sizes))]


def _plain(graph: gs.Graph, conv: gs.Node) -> bool:
    """Whether a Conv may be taken apart without making the file grow."""
    if match.attribute(conv, "group", 1) != 1:
        return False
    weight = conv.inputs[1]
    values = match.constant(weight)
    if values is None or values.dtype != np.float32:
        return False
    if len(weight.outputs) != 1 or match.fetched(weight):
        return match.miss("others read its weights")
    return True


def _part(graph: gs.Graph, source: Source, weights: list[np.ndarray], out: gs.Tensor) -> None:
    """Add the Conv and the activation that make one part."""
    last = len(source.activation)
    names = [f"{out.name}.{n.op.lower()}" for n in (source.conv, *source.activation)]
    made = [*(_like(out, name) for name in names[:last]), out]
    kinds = ("weight", "bias")[: len(weights)]
    held = [ir.Constant(f"{out.name}.{k}", w.copy()) for k, w in zip(kinds, weights, strict=True)]
    inputs: list[gs.Tensor] = [source.conv.inputs[0], *held]
    old = source.conv.outputs[0]
    renamed = {id(old): made[0]}
    attributes = dict(source.conv.attrs)
    match.insert(graph, ir.Node("Conv", names[0], attributes, inputs, [made[0]]))
    for node, name, result in zip(source.activation, names[1:], made[1:], strict=True):
        inputs = [renamed.get(id(t), t) for t in node.inputs]
        renamed[id(node.outputs[0])] = result
        match.insert(graph, ir.Node(node.op, name, dict(node.attrs), inputs, [result]))


def _like(out: gs.Tensor, name: str) -> gs.Tensor:
    """Return a new tensor of the shape of another."""
    tensor = ir.Variable(name, dtype=np.dtype(np.float32))
    shapes.note(tensor, shapes.dtype(out), shapes.dims(out))
    return tensor


ORT_CPU_RULES: tuple[Rule, ...] = (Rule("split_conv", ("Split",), split_conv),)
"""The rule of this file."""

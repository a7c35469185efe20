"""Arithmetic with constants after a Relu or a mean over pixels, done where it costs less.

relu(op(x, W, b)) * k           relu(op(x, W * k, b * k))           k > 0
GlobalAveragePool(x * k + d)    GlobalAveragePool(x) * k + d        on one element a channel

For Relu, LeakyRelu and MaxPool, which keep order, one or several in a row, behind a Conv,
ConvTranspose or Gemm with constant weights. k and d are one value, or one a channel. Nobody else
reads what is in between. The mean of unscaled values must not overflow: not in float16, and k is
within a factor of 1024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse.affine_conv import ORDERED, RANGE
from onnxopt_passes.fuse.term import OPS, normalised, read, vector

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_affine_pool(graph: gs.Graph, pool: gs.Node) -> bool:
    """Scale and shift the means of channels, not all their elements."""
    term = read(graph, match.sole(graph, pool.inputs[0], *OPS))
    found = None if term is None else vector(term.values, term.source)
    if term is None or found is None or term.dtype == np.float16:
        return False
    out, node, sizes = pool.outputs[0], term.node, np.abs(term.k)
    if found[1] not in (None, 1) or sizes.max() > RANGE or sizes.min() < 1 / RANGE:
        return False
    if match.quantized(term.source, out) or normalised(graph, term.source):
        return False

    mean = ir.Variable(f"{out.name}.mean", dtype=term.dtype)
    shapes.note(mean, term.dtype, shapes.dims(out))
    pool.inputs = [term.source]
    pool.outputs = [mean]
    node.inputs = [mean if t is term.source else t for t in node.inputs]
    node.outputs = [out]
    return True


def fuse_affine_back(graph: gs.Graph, node: gs.Node) -> bool:
    """Fold a positive factor into the layer before a Relu or the like."""
    term = read(graph, node)
    if term is None or not term.scales or not (term.k > 0).all():
        return False
    tensor, first = term.source, match.sole(graph, term.source, *ORDERED)
    above = first
    while above is not None:
        tensor = above.inputs[0]
        above = match.sole(graph, tensor, *ORDERED)
    layer = None if first is None else layers.feeding(graph, tensor)
    if first is None or layer is None or layer.dtype != term.dtype:
        return False
    if match.quantized(layer.node.inputs[0], node.outputs[0]):
        return False
    k = layers.per_channel(term.k, layer.channels, layer.rank)
    if k is None:
        return False
    out = node.outputs[0]
    inputs = layers.adjusted(graph, layer, tensor.name, k, np.zeros(layer.channels))
    if inputs is None:
        return False

    match.remove(node)
    first.outputs = [out]
    layer.node.inputs = inputs
    layer.node.attrs.pop("beta", None)
    return True


RULES: tuple[Rule, ...] = (
    Rule("affine_back", ("Mul", "Div"), fuse_affine_back),
    Rule("affine_pool", ("GlobalAveragePool",), fuse_affine_pool),
)
"""In the order in which they are tried."""

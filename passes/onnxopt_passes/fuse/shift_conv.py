"""x + c  ->  Conv(x, 1, c)        1x1, a group a channel, before a Conv.

What is left where a shift cannot be folded into a padded Conv. More work on paper; but onnxruntime
keeps what is between Convs in a layout of its own, in blocks of channels, which an Add of a
constant is not implemented for: two copies of the tensor fall away.

For onnxruntime on CPUs only: float32, images of two axes, whole blocks of channels. c is one value,
or one a channel; all readers are Convs, products or means, which know the layout. Exact: x * 1 + c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse.term import read

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BLOCK = 16
"""Channels in a block with AVX-512; 8 with AVX2."""

BLOCKED = ("Conv", "Mul", "GlobalAveragePool")
"""Readers that take blocks."""

MAKERS = (*BLOCKED, "Add", "Relu", "Sigmoid", "AveragePool", "MaxPool")
"""Nodes that make blocks, if they get some."""


def fuse_shift_conv(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the sum of an image and a constant as a Conv that keeps onnxruntime's layout."""
    term = read(graph, node)
    if term is None or not term.shifts or term.dtype != np.float32:
        return False
    source, out = term.source, node.outputs[0]
    dims = shapes.dims(source)
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int) or dims[1] % BLOCK:
        return False
    if match.fetched(out) or not match.is_op(match.producer(source), *MAKERS):
        return False
    if not any(match.is_op(n, "Conv") and n.inputs[0] is out for n in out.outputs):
        return False
    if match.quantized(source, out) or not all(match.is_op(n, *BLOCKED) for n in out.outputs):
        return False
    values = layers.per_channel(term.d, dims[1], rank=4)
    if values is None or not values.any():
        return False

    ones = np.ones((dims[1], 1, 1, 1), np.float32)
    node.op = "Conv"
    node.attrs.clear()
    node.attrs.update(group=dims[1], kernel_shape=[1, 1])
    node.inputs = [
        source,
        ir.Constant(f"{out.name}.weight", ones),
        ir.Constant(f"{out.name}.bias", values.astype(np.float32)),
    ]
    return True


RULES: tuple[Rule, ...] = ()
"""On its own a Conv is no cheaper than an Add."""

ORT_CPU_RULES: tuple[Rule, ...] = (Rule("shift_conv", ("Add", "Sub"), fuse_shift_conv),)
"""The rule of this file; after those of `affine_conv`."""

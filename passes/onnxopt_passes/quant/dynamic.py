"""Dynamic quantization: MatMul and Gemm by constant weights, activations quantized at run time.

    x_q, s_x, z_x = DynamicQuantizeLinear(x)
    y = Cast(MatMulInteger(x_q, w_q, z_x)) * (s_x * s_w)        s_w one a column

which onnxruntime fuses to DynamicQuantizeMatMul or MatMulIntegerToFloat, an Add of a bias behind it
included. Products that read one tensor share its quantization. Convolutions are never made so:
ConvInteger has no fused kernel and is several times slower than float.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt.statistics import linear
from onnxopt_passes.quant import scheme, units
from onnxopt_passes.quant.coded import Coded
from onnxopt_passes.quant.layer_fit import Won
from onnxopt_passes.quant.saturation import LIMITS, Met
from onnxopt_passes.quant.scheme import GRIDS, Params

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnxopt.model import Model

LEAST = 1024
"""Elements that a weight must have more of."""


NOTHING = Won()
"""Weights rounded to nearest."""

PARTS = ("product", "cast", "scales", "rescale", "bias")
"""What the nodes of a product are called behind its label."""


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm by a constant.

    Attributes:
        name: Path of its graph and its label.
        graph: The graph it is in.
        node: The node.
    """

    name: str
    graph: gs.Graph
    node: gs.Node


def find(model: Model) -> list[Product]:
    """Return the products of all graphs of a model whose shapes were inferred."""
    found = []
    for path, graph in model.graphs():
        for node in graph.nodes:
            if not match.is_op(node, "MatMul", "Gemm") or not units.GUARDS[node.op](node):
                continue
            weight = match.constant(node.inputs[1])
            if weight is None or weight.size <= LEAST or match.quantized(*_ends(node)):
                continue
            if match.constant(node.inputs[0]) is None and _float(node.inputs[0]):
                found.append(Product(f"{path}{units.label(node)}", graph, node))
    return found


def _ends(node: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
    return node.inputs[0], node.outputs[0]


def _float(tensor: gs.Tensor) -> bool:
    return shapes.dtype(tensor) in (None, units.FLOAT)


def axis(node: gs.Node) -> int:
    """Return the axis of a product's weight that belongs to columns of what it computes."""
    return 0 if node.op == "Gemm" and match.attribute(node, "transB", 0) else 1


def place(
    model: Model,
    chosen: Collection[str],
    limits: Mapping[str, np.ndarray],
    channelwise: bool = True,
    won: Won = NOTHING,
) -> None:
    """Make products run in integers.

    Args:
        model: Edited in place, inside `rewrite.editing`; opset 11 or later.
        chosen: Names of products.
        limits: Largest magnitude of the integers of each column, by name, where sums of two
            products saturate int16.
        channelwise: Whether weights have one scale a column.
        won: Biases and weights that are better, by name.
    """
    quantized: dict[tuple[int, int], list[gs.Tensor]] = {}
    held: dict[tuple[int, int], tuple[gs.Constant, gs.Constant]] = {}
    for product in find(model):
        if product.name not in chosen:
            continue
        node, graph = product.node, product.graph
        _correct(product, won.biases.get(product.name))
        source = node.inputs[0]
        key = id(graph), id(source)
        if key not in quantized:
            quantized[key] = _quantize(graph, source)
        tied = id(node.inputs[1]), axis(node)
        if tied not in held:
            refined = won.refined.get(product.name)
            held[tied] = _weight(product, refined or rounded(product, limits, channelwise))
        _replace(product, quantized[key], *held[tied])
    for _, graph in model.graphs():
        graph.nodes[:] = [n for n in graph.nodes if not getattr(n, "removed", False)]


def weight_params(
    weight: np.ndarray, along: int, most: np.ndarray | None, channelwise: bool
) -> Params:
    """Return the scheme of a weight whose columns are along an axis.

    Args:
        weight: Floats.
        along: The axis.
        most: Largest magnitude of the integers of each column, None for all of int8.
        channelwise: Whether each column has a scale.
    """
    params = scheme.fit(weight, GRIDS["int8"], True, along if channelwise else None)
    if most is None:
        return params
    scale = params.scale * (LIMITS[0] / (most if channelwise else most.min()))
    return replace(params, scale=np.asarray(scale, np.float32))


def overflows(integers: np.ndarray, axis: int, reached: Met) -> np.ndarray:
    """Return for which columns sums of two products leave int16, bool (columns,).

    Args:
        integers: A weight's.
        axis: The axis of the columns.
        reached: What the product's input reaches.
    """
    return np.asarray(reached.overflows(np.moveaxis(integers, axis, 0)[None])[0])


def anything(weight: np.ndarray, axis: int) -> Met:
    """Return that every input of a product may be 255."""
    return Met(np.full((1, weight.shape[1 - axis]), 255))


def _correct(product: Product, offsets: np.ndarray | None) -> None:
    """Add to the bias of a product; that of a MatMul is in the Add behind it."""
    layer = None if offsets is None else linear.find(product.graph, product.node)
    if layer is not None and offsets is not None:
        layer.write_bias(layer.offsets() + offsets)


def rounded(product: Product, limits: Mapping[str, np.ndarray], channelwise: bool) -> Coded:
    """Return the weight of a product rounded to nearest; see `place`."""
    weight = match.constant(product.node.inputs[1])
    assert weight is not None  # noqa: S101  # a guard of the product
    along = axis(product.node)
    params = weight_params(weight, along, limits.get(product.name), channelwise)
    return Coded(weight.shape, params, scheme.quantize(weight, params))


def _weight(product: Product, coded: Coded) -> tuple[gs.Constant, gs.Constant]:
    """Return a weight's integers (K, columns), and its scales."""
    integers = coded.integers if axis(product.node) else coded.integers.T
    name = product.node.inputs[1].name or units.label(product.node)
    return (
        gs.Constant(f"{name}.quantized", np.ascontiguousarray(integers)),
        gs.Constant(f"{name}.scale", coded.params.scale),
    )


def _quantize(graph: gs.Graph, source: gs.Tensor) -> list[gs.Tensor]:
    name = f"{source.name}.dynamic"
    kinds = (("quantized", np.uint8), ("scale", np.float32), ("zero_point", np.uint8))
    outputs: list[gs.Tensor] = [gs.Variable(f"{name}.{what}", kind) for what, kind in kinds]
    match.insert(graph, gs.Node("DynamicQuantizeLinear", name, {}, [source], outputs))
    return outputs


def _replace(
    product: Product, source: list[gs.Tensor], weight: gs.Constant, scale: gs.Constant
) -> None:
    node, graph = product.node, product.graph
    label = units.label(node)
    values, x_scale, zero = source
    names = ("integers", "floats", "scale", "scaled")
    whole, floats, factor, scaled = (gs.Variable(f"{label}.{n}", np.float32) for n in names)
    whole.dtype = np.int32
    out = node.outputs[0]
    bias = node.inputs[2] if node.op == "Gemm" and match.given(node, 2) else None
    match.remove(node)
    made: list[gs.Tensor] = [out if bias is None else scaled]
    steps = (
        gs.Node("MatMulInteger", f"{label}.product", {}, [values, weight, zero], [whole]),
        gs.Node("Cast", f"{label}.cast", {"to": 1}, [whole], [floats]),
        gs.Node("Mul", f"{label}.scales", {}, [x_scale, scale], [factor]),
        gs.Node("Mul", f"{label}.rescale", {}, [floats, factor], made),
    )
    for step in steps:
        match.insert(graph, step)
    if bias is not None:
        match.insert(graph, gs.Node("Add", f"{label}.bias", {}, [scaled, bias], [out]))

"""Two linear layers in a row  ->  one, where that takes fewer multiplications and fewer bytes.

MatMul(MatMul(x, V), W)                     MatMul(x, V W)
MatMul(MatMul(x, V) + b, W)                 MatMul(x, V W) + b W
Gemm(Gemm(x, V, b), W, c)                   Gemm(x, V W, b W + c)
Conv1x1(Conv(x, V, b), W, c)                Conv(x, W V, W b + c)
Conv(Conv1x1(x, V), W, c)                   Conv(x, W V, c)         b only without padding

V W has as many elements as a multiplication takes an output, so that the two numbers are one: the
product must have no more of them than V and W together. A bottleneck, such as LoRA's, stays.

Weights and biases are constants that nobody else reads, the Convs have one group, the 1x1 Conv has
stride 1 and no padding. Exact up to the rounding of V W, which is computed in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse.inlet import Inlet, inlet, unpadded

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

FLOATS = (np.float32, np.float64)
"""Not float16: the product of weights may leave its range."""

MATRIX = ("alpha", "beta", "transA", "transB")
"""Attributes of a Gemm; they are in the merged weights and bias."""


def fuse_linear_chain(graph: gs.Graph, node: gs.Node) -> bool:
    """Merge a Gemm, MatMul or Conv into the layer of its kind that alone feeds it."""
    adder = match.sole(graph, node.inputs[0], "Add") if node.op == "MatMul" else None
    place = _constant_place(graph, adder)
    if adder is not None and place is None:
        return False
    between = node.inputs[0] if adder is None else adder.inputs[1 - (place or 0)]
    first = match.sole(graph, between, node.op)
    if first is None:
        return False
    front, back = inlet(graph, first, first.inputs[0]), inlet(graph, node, node.inputs[0])
    if front is None or back is None or not _alike(graph, front, back):
        return False
    if match.quantized(first.inputs[0], between) or match.quantized(
        node.inputs[0], node.outputs[0]
    ):
        return False
    product = _product(front, back)
    if product is None or not _pays(front, back, product):
        return False
    if adder is not None and place is not None:
        return _through_add(node, adder, place, first, back, product)
    return _through(node, front, back, product)


def _constant_place(graph: gs.Graph, adder: gs.Node | None) -> int | None:
    """Return which input of an Add is one constant, or one a column."""
    if adder is None or graph.opset < 7:
        return None
    held = [match.constant(t) for t in adder.inputs]
    place = 0 if held[1] is None else 1
    values = held[place]
    return place if values is not None and values.ndim <= 1 and values.size else None


def _through(node: gs.Node, front: Inlet, back: Inlet, product: np.ndarray) -> bool:
    """Merge two layers that have their biases themselves."""
    first, out = front.node, node.outputs[0]
    inputs = [first.inputs[0], ir.Constant(f"{out.name}.weight", product)]
    if match.given(first, 2) or match.given(node, 2):
        bias = _bias(front, back)
        if bias is None:
            return False
        inputs.append(ir.Constant(f"{out.name}.bias", bias))

    window = first if node.op == "Conv" and _pointwise(back) else node
    attrs = {k: v for k, v in window.attrs.items() if k not in MATRIX}
    match.remove(first)
    node.attrs.clear()
    node.attrs.update(attrs)
    node.inputs = inputs
    return True


def _through_add(
    node: gs.Node, adder: gs.Node, place: int, first: gs.Node, back: Inlet, product: np.ndarray
) -> bool:
    """Merge two MatMuls with an Add of a constant between them, which moves behind."""
    values = match.constant(adder.inputs[place])
    if values is None or values.dtype != back.dtype or values.size not in (1, back.channels):
        return False
    through = back.shifted(values.reshape(-1).astype(np.float64))
    bias = None if through is None else layers.rounded(through, back.dtype)
    if bias is None:
        return False

    out, x, merged = node.outputs[0], first.inputs[0], first.outputs[0]
    match.remove(first)
    node.inputs = [x, ir.Constant(f"{out.name}.weight", product)]
    adder.outputs = []
    node.outputs = [merged]
    shapes.note(merged, back.dtype, shapes.dims(out))
    adder.inputs = [merged, ir.Constant(f"{out.name}.bias", bias)]
    adder.outputs = [out]
    return True


def _alike(graph: gs.Graph, front: Inlet, back: Inlet) -> bool:
    """Whether two layers are of a kind that can be merged, and fit."""
    if front.dtype != back.dtype or front.dtype not in FLOATS or front.outputs != back.channels:
        return False
    if any(not _alone(graph, layer) for layer in (front, back)):
        return False
    if front.node.op != "Conv":
        return True
    if front.weight.shape[0] != 1 or back.weight.shape[0] != 1:
        return False
    if _pointwise(back):
        return True
    plain = not match.given(front.node, 2) or unpadded(back.node)
    return _pointwise(front) and plain


def _alone(graph: gs.Graph, layer: Inlet) -> bool:
    """Whether nobody else reads the weights of a layer."""
    held = layer.node.inputs[1]
    return len(held.outputs) == 1 and layers.replaceable(graph, held)


def _pointwise(layer: Inlet) -> bool:
    """Whether a Conv looks at one pixel at a time, at each of them."""
    strides = match.attribute(layer.node, "strides", [])
    return (
        layer.weight.shape[3] == 1
        and unpadded(layer.node)
        and isinstance(strides, list)
        and all(s == 1 for s in strides)
    )


def _factor(layer: Inlet) -> float | None:
    if layer.node.op != "Gemm":
        return 1.0
    alpha = match.attribute(layer.node, "alpha", 1.0)
    return float(alpha) if isinstance(alpha, (float, int)) else None


def _product(front: Inlet, back: Inlet) -> np.ndarray | None:
    """Return the weights of both layers in one, as the merged layer stores them."""
    alphas = [_factor(front), _factor(back)]
    if alphas[0] is None or alphas[1] is None:
        return None
    v, w = front.weight[0].astype(np.float64), back.weight[0].astype(np.float64)
    with np.errstate(all="ignore"):
        if front.node.op == "Conv" and not _pointwise(back):
            found = np.einsum("omt,mi->oit", w, v[:, :, 0], optimize=True)
        else:
            found = np.einsum("om,mit->oit", w[:, :, 0], v, optimize=True)
        result = layers.rounded(found * alphas[0] * alphas[1], front.dtype)
    if result is None:
        return None
    if front.node.op != "Conv":
        return np.ascontiguousarray(result[:, :, 0].T)
    window = front.shape[2:] if _pointwise(back) else back.shape[2:]
    return result.reshape(*result.shape[:2], *window)


def _pays(front: Inlet, back: Inlet, product: np.ndarray) -> bool:
    if product.size > front.weight.size + back.weight.size:
        return match.miss(
            f"one layer would have {product.size} weights,"
            f" two have {front.weight.size} and {back.weight.size}"
        )
    return True


def _bias(front: Inlet, back: Inlet) -> np.ndarray | None:
    """Return what the merged layer adds: the first bias through the second layer, and its own."""
    first = layers.bias(front.node, front.outputs, front.dtype)
    second = layers.bias(back.node, back.outputs, back.dtype)
    if first is None or second is None:
        return None
    through = back.shifted(first) if match.given(front.node, 2) else np.zeros(back.outputs)
    if through is None:
        return None
    with np.errstate(all="ignore"):
        return layers.rounded(through + second, back.dtype)


RULES: tuple[Rule, ...] = (Rule("linear_chain", ("MatMul", "Gemm", "Conv"), fuse_linear_chain),)
"""The rule of this file."""

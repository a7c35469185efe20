"""Arithmetic with a constant after a MatMul  ->  MatMul with other weights.

MatMul(x, W) * k            MatMul(x, W * k)
(MatMul(x, W) + b) * k      MatMul(x, W * k) + b * k
MatMul(x, W) - b            MatMul(x, W) + (-b)
BatchNormalization(MatMul(x, W) [+ b])      MatMul(x, W * k) + (b * k + d)      of two axes, also of
                                                                                rows put together

k is one value, or one a column; a division is a product with 1 / k. W has two axes; W and b are
constants, and nobody else reads what is in between. A MatMul stays a MatMul and its bias an Add:
runtimes make a Gemm of the two themselves. Other guards as in `layer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse import scalars
from onnxopt_passes.fuse.conv_bn import parameters
from onnxopt_passes.fuse.term import read

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Product:
    """A MatMul with constant weights, and the Add of a constant that may follow it.

    Attributes:
        node: The MatMul.
        weight: Its weights.
        adder: The Add; None where there is none.
        place: Which input of the Add is the constant.
        bias: That constant, in float64; zero where there is none.
    """

    node: gs.Node
    weight: np.ndarray
    adder: gs.Node | None
    place: int
    bias: np.ndarray

    @property
    def columns(self) -> int:
        """Number of output channels, the last axis."""
        return int(self.weight.shape[1])

    def fits(self, values: np.ndarray) -> bool:
        """Whether a constant is one value, or one a column, for sure."""
        return values.size in (1, self.columns) and values.ndim <= 1


def _product(graph: gs.Graph, tensor: gs.Tensor) -> Product | None:
    """Return the MatMul, with or without bias, that makes a tensor and has no other reader."""
    adder = match.sole(graph, tensor, "Add")
    place, bias = 0, np.zeros(())
    if adder is not None:
        held = [match.constant(t) for t in adder.inputs]
        place = 0 if held[1] is None else 1
        values = held[place]
        if values is None or held[1 - place] is not None or graph.opset < 7:
            return None
        tensor, bias = adder.inputs[1 - place], values
    node = match.sole(graph, tensor, "MatMul")
    weight = None if node is None else match.constant(node.inputs[1])
    if node is None or weight is None or weight.ndim != 2 or not weight.size:
        return None
    if weight.dtype not in layers.FLOATS or (adder is not None and bias.dtype != weight.dtype):
        return None
    found = Product(node, weight, adder, place, bias.astype(np.float64))
    return found if found.fits(bias) and not match.quantized(node.inputs[0], tensor) else None


def fuse_matmul_affine(graph: gs.Graph, node: gs.Node) -> bool:
    """Fold Mul or Div by a constant into the weights, and the bias, of a MatMul."""
    term = read(graph, node)
    if term is None or not term.scales:
        return False
    product = _product(graph, term.source)
    if product is None or product.weight.dtype != term.dtype or not product.fits(term.k):
        return False
    out = node.outputs[0]
    if match.quantized(term.source, out):
        return False
    weight = _scaled(graph, product, term.k, out.name)
    bias = _bias(product, term.k, np.zeros(()), out.name)
    if weight is None or bias is None:
        return False

    match.remove(node)
    product.node.inputs = [product.node.inputs[0], weight]
    if product.adder is None:
        product.node.outputs = [out]
        return True
    inputs = list(product.adder.inputs)
    inputs[product.place] = bias
    product.adder.inputs = inputs
    product.adder.outputs = [out]
    return True


def add_to_matmul(graph: gs.Graph, sub: gs.Node) -> bool:
    """Write what is taken off a MatMul as a bias."""
    node = match.sole(graph, sub.inputs[0], "MatMul")
    values = match.constant(sub.inputs[1])
    weight = None if node is None else match.constant(node.inputs[1])
    if node is None or weight is None or values is None or weight.ndim != 2 or graph.opset < 7:
        return False
    if values.ndim > 1 or values.size not in (1, weight.shape[1]) or values.dtype.kind != "f":
        return False
    if not scalars.spare(sub.inputs[1]) or match.quantized(node.inputs[0], sub.outputs[0]):
        return False

    sub.op = "Add"
    sub.inputs = [sub.inputs[0], ir.Constant(f"{sub.outputs[0].name}.bias", -values)]
    return True


def fuse_matmul_bn(graph: gs.Graph, bn: gs.Node) -> bool:
    """Fold an inference-mode BatchNormalization of two axes into a MatMul, and its bias."""
    source = bn.inputs[0]
    if graph.opset < 7 or len(shapes.dims(source) or ()) != 2:
        return False
    flat = match.sole(graph, source, "Reshape", "Flatten")
    product = _product(graph, source if flat is None else flat.inputs[0])
    if product is None or (flat is not None and not _keeps_columns(flat, product.columns)):
        return False
    found = parameters(graph, bn)
    if found is None or found[2] != product.weight.dtype or len(found[0]) != product.columns:
        return False
    k, d, _ = found
    out = bn.outputs[0]
    if match.quantized(source, out):
        return False
    weight = _scaled(graph, product, k, out.name)
    bias = _bias(product, k, d, out.name)
    if weight is None or bias is None:
        return False

    match.remove(bn)
    product.node.inputs = [product.node.inputs[0], weight]
    adder = product.adder
    if adder is None:
        adder = _added(graph, product.node, bias, flat)
    else:
        adder.inputs = [t if i != product.place else bias for i, t in enumerate(adder.inputs)]
    (adder if flat is None else flat).outputs = [out]
    return True


def _added(graph: gs.Graph, node: gs.Node, bias: gs.Constant, flat: gs.Node | None) -> gs.Node:
    """Put an Add of a bias between a MatMul and what reads it."""
    product = node.outputs[0]
    total = ir.Variable(f"{product.name}.biased")
    shapes.note(total, shapes.dtype(product), shapes.dims(product))
    if flat is not None:
        flat.inputs = [total, *flat.inputs[1:]]
    return match.insert(graph, ir.Node("Add", total.name, {}, [product, bias], [total]))


def _keeps_columns(flat: gs.Node, columns: int) -> bool:
    """Whether a Reshape to two axes leaves the last axis, which has so many columns."""
    before, after = shapes.dims(flat.inputs[0]), shapes.dims(flat.outputs[0])
    return bool(before and after and before[-1] == after[-1] == columns)


def _scaled(graph: gs.Graph, product: Product, k: np.ndarray, name: str) -> gs.Constant | None:
    """Return the weights times k a column; None where a guard does not hold."""
    if not layers.replaceable(graph, product.node.inputs[1]):
        match.miss("others read the weights too")
        return None
    factors = np.broadcast_to(k.reshape(1, -1), (1, product.columns))
    values = layers.times(product.weight, factors, axes=(0,))
    return None if values is None else ir.Constant(f"{name}.weight", values)


def _bias(product: Product, k: np.ndarray, d: np.ndarray, name: str) -> gs.Constant | None:
    with np.errstate(all="ignore"):
        values = layers.rounded(product.bias * k + d, product.weight.dtype)
    return None if values is None else ir.Constant(f"{name}.bias", values)


RULES: tuple[Rule, ...] = (
    Rule("matmul_affine", ("Mul", "Div"), fuse_matmul_affine),
    Rule("matmul_sub", ("Sub",), add_to_matmul),
    Rule("matmul_bn", ("BatchNormalization",), fuse_matmul_bn),
)
"""In the order in which they are tried."""

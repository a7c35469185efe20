"""RMSNorm as one node from opset 23 on, and before in the form that onnxruntime recognises.

x / sqrt(mean(x ** 2) + eps) * w         ->   RMSNormalization(x, w)                opset >= 23
x * (1 / sqrt(mean(x ** 2) + eps)) * w   ->   x / sqrt(mean(x ** 2) + eps) * w

w is a constant of the last axis, which the mean is over; the square becomes a Pow. The inverse is a
Reciprocal or a Div of 1. onnxruntime makes one node of the right side of the second line, and
leaves the left one, that Llama exports have, as it is. Where no w follows, the second line does not
pay, and the first takes ones. Only float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import normal, scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

RMS_NORM = 23
"""The opset that has RMSNormalization."""


def order_rms_norm(graph: gs.Graph, inverse: gs.Node) -> bool:
    """Divide by the root instead of multiplying by its inverse."""
    held = normal.inverted(inverse)
    root = None if held is None else match.sole(graph, held, "Sqrt")
    last = match.sole_reader(graph, inverse.outputs[0], "Mul")
    if graph.opset < scalars.BROADCASTS or root is None or last is None:
        return False
    left, right = last.inputs
    x = left if right is inverse.outputs[0] else right
    found = _square(graph, root, x)
    if found is None or not _changeable(graph, last, x):
        return False

    square = found[0]
    if square.op == "Mul":
        two = scalars.constant(f"{square.outputs[0].name}.two", 2, np.dtype(np.float32))
        scalars.finish(graph, square, ir.Node("Pow", square.name, inputs=[x, two]))
    return scalars.finish(graph, last, ir.Node("Div", last.name, inputs=[x, root.outputs[0]]))


def fuse_rms_norm(graph: gs.Graph, root: gs.Node) -> bool:
    """Write an RMSNorm as one node."""
    parts = _quotient(graph, root) if graph.opset >= RMS_NORM else None
    found = None if parts is None else _square(graph, root, parts[1])
    if parts is None or found is None:
        return False
    last, x = parts
    if scalars.kind(x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    size = (shapes.dims(x) or (None,))[-1]
    if match.quantized(x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    weight = None
    if _weighted(graph, last, x):
        product = last.outputs[0].outputs[0]
        weight = next(t for t in product.inputs if t is not last.outputs[0])
        last = product
    elif isinstance(size, int) and 0 < 4 * size <= scalars.SHARED:
        weight = ir.Constant(f"{last.outputs[0].name}.weight", np.ones(size, np.float32))
    if weight is None or match.quantized(x, last.outputs[0]):
        return match.miss("it has no weight, and one of ones would make the file grow")

    attributes = {"axis": -1, "epsilon": found[1]}
    new = ir.Node("RMSNormalization", last.name, attributes, [x, weight])
    return scalars.finish(graph, last, new)


def _quotient(graph: gs.Graph, root: gs.Node) -> tuple[gs.Node, gs.Tensor] | None:
    """Return the node that divides by a root or multiplies by its inverse, and what it divides."""
    reader = match.sole_reader(graph, root.outputs[0], "Div", "Reciprocal")
    if reader is None:
        return None
    if normal.inverted(reader) is None:
        return reader, reader.inputs[0]
    last = match.sole_reader(graph, reader.outputs[0], "Mul")
    if last is None:
        return None
    left, right = last.inputs
    return last, left if right is reader.outputs[0] else right


def _changeable(graph: gs.Graph, last: gs.Node, x: gs.Tensor) -> bool:
    """Whether x / root(x) is one that may be changed, and followed by its weight."""
    if scalars.kind(x, last.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    if not _weighted(graph, last, x):
        return match.miss("no weight of the last axis follows: onnxruntime does not recognise it")
    if match.quantized(x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    return True


def _square(graph: gs.Graph, root: gs.Node, x: gs.Tensor) -> tuple[gs.Node, float] | None:
    """Return x ** 2 whose mean over the last axis, and a number, a root is taken of; the number."""
    add = match.sole(graph, root.inputs[0], "Add")
    eps = scalars.shifted(add)
    mean = None if eps is None else match.sole(graph, eps[0], "ReduceMean")
    dims = shapes.dims(x)
    if eps is None or mean is None or dims is None or match.attribute(mean, "keepdims", 1) != 1:
        return None
    if match.integers(mean, 1, "axes") not in ([-1], [len(dims) - 1]):
        return None
    square = match.sole(graph, mean.inputs[0], "Mul", "Pow")
    if square is None or square.inputs[0] is not x:
        return None
    known = match.scalar(square.inputs[1]) == 2 if square.op == "Pow" else square.inputs[1] is x
    return (square, eps[1]) if known else None


def _weighted(graph: gs.Graph, last: gs.Node, x: gs.Tensor) -> bool:
    """Whether a product with a constant of the last axis follows."""
    reader = match.sole_reader(graph, last.outputs[0], "Mul")
    dims = shapes.dims(x)
    if reader is None or not dims:
        return False
    found = [v for t in reader.inputs if (v := match.constant(t)) is not None]
    return len(found) == 1 and found[0].shape == (dims[-1],)


RULES: tuple[Rule, ...] = (
    Rule("rms_normalization", ("Sqrt",), fuse_rms_norm),
    Rule("rms_norm", ("Reciprocal", "Div"), order_rms_norm),
)
"""Before those that would take its constants away."""

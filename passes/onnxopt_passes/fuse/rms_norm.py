"""RMSNorm in the form that onnxruntime recognises.

x * (1 / sqrt(mean(x ** 2) + eps)) * w   ->   x / sqrt(mean(x ** 2) + eps) * w

w is a constant of the last axis, which the mean is over; the square becomes a Pow. onnxruntime
makes one node of the right side, and leaves the left one, that Llama exports have, as it is. Only
float32 with such a w is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def order_rms_norm(graph: gs.Graph, inverse: gs.Node) -> bool:
    """Divide by the root instead of multiplying by its inverse."""
    root = match.sole(graph, inverse.inputs[0], "Sqrt")
    last = match.sole_reader(graph, inverse.outputs[0], "Mul")
    if graph.opset < scalars.BROADCASTS or root is None or last is None:
        return False
    left, right = last.inputs
    x = left if right is inverse.outputs[0] else right
    square = _square(graph, root, x)
    if square is None:
        return False
    if scalars.kind(x, root.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    if not _weighted(graph, last, x):
        return match.miss("no weight of the last axis follows: onnxruntime does not recognise it")
    if match.quantized(x, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    if square.op == "Mul":
        two = scalars.constant(f"{square.outputs[0].name}.two", 2, np.dtype(np.float32))
        scalars.finish(graph, square, ir.Node("Pow", square.name, inputs=[x, two]))
    return scalars.finish(graph, last, ir.Node("Div", last.name, inputs=[x, root.outputs[0]]))


def _square(graph: gs.Graph, root: gs.Node, x: gs.Tensor) -> gs.Node | None:
    """Return x ** 2 whose mean over the last axis, and a small number, a root is taken of."""
    add = match.sole(graph, root.inputs[0], "Add")
    eps = scalars.shifted(add)
    mean = None if eps is None else match.sole(graph, eps[0], "ReduceMean")
    dims = shapes.dims(x)
    if mean is None or dims is None or match.attribute(mean, "keepdims", 1) != 1:
        return None
    if match.integers(mean, 1, "axes") not in ([-1], [len(dims) - 1]):
        return None
    square = match.sole(graph, mean.inputs[0], "Mul", "Pow")
    if square is None or square.inputs[0] is not x:
        return None
    known = match.scalar(square.inputs[1]) == 2 if square.op == "Pow" else square.inputs[1] is x
    return square if known else None


def _weighted(graph: gs.Graph, last: gs.Node, x: gs.Tensor) -> bool:
    """Whether a product with a constant of the last axis follows."""
    reader = match.sole_reader(graph, last.outputs[0], "Mul")
    dims = shapes.dims(x)
    if reader is None or not dims:
        return False
    found = [v for t in reader.inputs if (v := match.constant(t)) is not None]
    return len(found) == 1 and found[0].shape == (dims[-1],)


RULES: tuple[Rule, ...] = (Rule("rms_norm", ("Reciprocal",), order_rms_norm),)
"""Before those that would take its constants away."""

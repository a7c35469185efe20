"""Mish, Softplus, Elu and PRelu, in the form that costs onnxruntime least.

Its kernels for these go element by element, it has vector instructions elsewhere:

x * tanh(softplus(x)), Mish(x)  ->  x * w / (w + 2)       e = exp(min(x, 20)),  w = e * (e + 2)
Softplus(x)                     ->  max(x, 0) + log1p(e)  e = exp(-|x|)
                                    log1p(e) = log(u) + (e - (u - 1)),  u = 1 + e
Elu(x; a)                       ->  max(x, 0) + a * (exp(min(x, 0)) - 1)
PRelu(x, slopes)                ->  max(x, 0) + slopes * min(x, 0)

Mish: tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1), with softplus as an op or written out.
Above 20 the quotient is 1 in float32, so the minimum changes nothing, and e * e does not overflow.
Softplus: u is 1 + e but for its rounding, which u - 1 shows exactly; without that term small values
would lose all their digits. onnxruntime computes Elu in this way itself, with as much rounding for
small values. Infinite slopes are left alone: 0 times those is NaN. What is written out is float32
only: float16 would overflow, or lose digits between the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars
from onnxopt_passes.fuse.piecewise import covers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ENOUGH = 20.0
"""From here on tanh(softplus(x)) is 1 in float32."""


def expand_mish(graph: gs.Graph, node: gs.Node) -> bool:
    """Compute Mish by one exponential."""
    x, last = (node.inputs[0], node) if node.op == "Mish" else _mish(graph, node)
    if last is None or x is None or not _expandable(graph, x, last.outputs[0]):
        return False

    name = last.outputs[0].name
    two = scalars.constant(f"{name}.two", 2, np.dtype(np.float32))
    enough = scalars.constant(f"{name}.enough", ENOUGH, np.dtype(np.float32))
    low = scalars.step(graph, "Min", f"{name}.low", x, x, enough)
    e = scalars.step(graph, "Exp", f"{name}.exp", x, low)
    e2 = scalars.step(graph, "Add", f"{name}.exp2", x, e, two)
    w = scalars.step(graph, "Mul", f"{name}.top", x, e, e2)
    bottom = scalars.step(graph, "Add", f"{name}.bottom", x, w, two)
    gate = scalars.step(graph, "Div", f"{name}.gate", x, w, bottom)
    return scalars.finish(graph, last, ir.Node("Mul", last.name, inputs=[x, gate]))


def expand_softplus(graph: gs.Graph, node: gs.Node) -> bool:
    """Compute Softplus by vectorised functions, small values to all their digits."""
    x, out = node.inputs[0], node.outputs[0]
    if match.sole_reader(graph, out, "Tanh") is not None or not _expandable(graph, x, out):
        return False

    name = out.name
    one = scalars.constant(f"{name}.one", 1, np.dtype(np.float32))
    magnitude = scalars.step(graph, "Abs", f"{name}.abs", x, x)
    negative = scalars.step(graph, "Neg", f"{name}.neg", x, magnitude)
    e = scalars.step(graph, "Exp", f"{name}.exp", x, negative)
    u = scalars.step(graph, "Add", f"{name}.u", x, e, one)
    log = scalars.step(graph, "Log", f"{name}.log", x, u)
    rounded = scalars.step(graph, "Sub", f"{name}.rounded", x, u, one)
    lost = scalars.step(graph, "Sub", f"{name}.lost", x, e, rounded)
    log1p = scalars.step(graph, "Add", f"{name}.log1p", x, log, lost)
    positive = scalars.step(graph, "Relu", f"{name}.positive", x, x)
    return scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[positive, log1p]))


def expand_elu(graph: gs.Graph, node: gs.Node) -> bool:
    """Compute Elu by vectorised functions."""
    x, out = node.inputs[0], node.outputs[0]
    alpha = match.attribute(node, "alpha", 1.0)
    if not isinstance(alpha, (float, int)) or not np.isfinite(alpha):
        return False
    if not _expandable(graph, x, out):
        return False

    name = out.name
    one = scalars.constant(f"{name}.one", 1, np.dtype(np.float32))
    zero = scalars.constant(f"{name}.zero", 0, np.dtype(np.float32))
    low = scalars.step(graph, "Min", f"{name}.low", x, x, zero)
    e = scalars.step(graph, "Exp", f"{name}.exp", x, low)
    negative = scalars.step(graph, "Sub", f"{name}.negative", x, e, one)
    if alpha != 1:
        slope = scalars.constant(f"{name}.alpha", alpha, np.dtype(np.float32))
        negative = scalars.step(graph, "Mul", f"{name}.scaled", x, negative, slope)
    positive = scalars.step(graph, "Relu", f"{name}.positive", x, x)
    return scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[positive, negative]))


def expand_prelu(graph: gs.Graph, node: gs.Node) -> bool:
    """Compute PRelu by vectorised functions."""
    x, slopes = node.inputs
    values = match.constant(slopes)
    if values is None or not np.isfinite(values).all() or values.dtype != np.float32:
        return False
    if not covers(shapes.dims(x), values.shape):
        return match.miss("its slopes may widen its input")
    if not _expandable(graph, x, node.outputs[0]):
        return False

    name = node.outputs[0].name
    zero = scalars.constant(f"{name}.zero", 0, np.dtype(np.float32))
    low = scalars.step(graph, "Min", f"{name}.low", x, x, zero)
    negative = scalars.step(graph, "Mul", f"{name}.negative", x, low, slopes)
    positive = scalars.step(graph, "Relu", f"{name}.positive", x, x)
    return scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[positive, negative]))


def _mish(graph: gs.Graph, tanh: gs.Node) -> tuple[gs.Tensor | None, gs.Node | None]:
    """Return x and the product of x * tanh(softplus(x))."""
    x = _softened(graph, tanh.inputs[0])
    product = match.sole_reader(graph, tanh.outputs[0], "Mul")
    if x is None or product is None:
        return None, None
    return (x, product) if any(t is x for t in product.inputs) else (None, None)


def _softened(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return x of Softplus(x), or of Log(1 + Exp(x))."""
    node = match.sole(graph, tensor, "Softplus", "Log")
    if node is None or node.op == "Softplus":
        return None if node is None else node.inputs[0]
    shift = scalars.shifted(match.sole(graph, node.inputs[0], "Add"))
    power = None if shift is None or shift[1] != 1 else match.sole(graph, shift[0], "Exp")
    return None if power is None else power.inputs[0]


def _expandable(graph: gs.Graph, x: gs.Tensor, out: gs.Tensor) -> bool:
    """Whether a function of x may be written as arithmetic, by its type and place."""
    if graph.opset < 8 or scalars.kind(x, out) != np.float32:
        return False
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    return True


ORT_CPU_RULES: tuple[Rule, ...] = (
    Rule("mish", ("Mish", "Tanh"), expand_mish),
    Rule("softplus", ("Softplus",), expand_softplus),
    Rule("elu", ("Elu",), expand_elu),
    Rule("prelu", ("PRelu",), expand_prelu),
)
"""What onnxruntime's own kernels are slower than, except on small tensors."""

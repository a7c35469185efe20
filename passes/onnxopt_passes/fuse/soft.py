"""Mish, Softplus, Elu and the rectifiers with a slope, in the form that costs least.

x if x > 0 else x * a           ->  LeakyRelu(x; a)       also max(x, x * a), 0 < a <= 1
PRelu(x, a), one slope          ->  LeakyRelu(x; a)

For onnxruntime, whose kernels for these go element by element, vector instructions elsewhere:

x * tanh(softplus(x)), Mish(x)  ->  x * w / (w + 2)       e = exp(min(x, 20)),  w = e * (e + 2)
Softplus(x)                     ->  max(x, 0) + log1p(e)  e = exp(-|x|)
                                    log1p(e) = log(u) + (e - (u - 1)),  u = 1 + e
Elu(x; a)                       ->  max(x, 0) + a * (exp(min(x, 0)) - 1)
PRelu(x, slopes)                ->  max(x, 0) + slopes * min(x, 0)

Mish: tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1). Above 20 the quotient is 1 in float32,
so the minimum changes nothing, and e * e does not overflow. Softplus: u is 1 + e but for its
rounding, which u - 1 shows exactly; without that term small values would lose all their digits.
onnxruntime computes Elu in this way itself, with as much rounding for small values. Infinite slopes
are left alone: 0 times those is NaN. What is written out is float32 only: float16 would overflow,
or lose digits between the steps.
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

ENOUGH = 20.0
"""From here on tanh(softplus(x)) is 1 in float32."""


def fuse_uniform_prelu(graph: gs.Graph, prelu: gs.Node) -> bool:
    """Write a PRelu with one slope as a LeakyRelu."""
    if graph.opset < scalars.BROADCASTS:
        return False
    x, slopes = prelu.inputs
    values = match.constant(slopes)
    if values is None or not values.size or values.dtype not in scalars.SINGLE:
        return False
    rank = shapes.dims(x)
    if (values != values.reshape(-1)[0]).any():
        return False
    if values.ndim and (rank is None or len(rank) < values.ndim):
        return match.miss("the rank of its input is not known to be that of its slopes")
    if values.size > 1 and not _covers(shapes.dims(x), values.shape):
        return match.miss("its slopes may widen its input")
    return _leaky(graph, prelu, x, float(values.reshape(-1)[0]))


def fuse_max_leaky(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the maximum of x and x * a as a LeakyRelu."""
    if graph.opset < 8 or len(node.inputs) != 2:
        return False
    for x, other in (node.inputs, reversed(node.inputs)):
        maker = match.sole(graph, other, "Mul", "Div")
        scale = scalars.scaled(maker)
        if maker is None or scale is None or scale[0] is not x or not 0 < scale[1] <= 1:
            continue
        if scalars.kind(*maker.inputs) not in scalars.SINGLE:
            return match.miss("it is neither float32 nor float16")
        return _leaky(graph, node, x, scale[1])
    return False


def fuse_where_leaky(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the choice between x and x * a by the sign of x as a LeakyRelu."""
    condition, x, other = node.inputs
    test = match.sole(graph, condition, "Greater", "GreaterOrEqual")
    if test is None or test.inputs[0] is not x or scalars.number(test.inputs[1], x) != 0:
        return False
    scale = scalars.scaled(match.sole(graph, other, "Mul", "Div"))
    if scale is None or scale[0] is not x:
        return False
    if scalars.kind(x, test.inputs[1]) not in scalars.SINGLE:
        return match.miss("it is neither float32 nor float16")
    return _leaky(graph, node, x, scale[1])


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
    if not _covers(shapes.dims(x), values.shape):
        return match.miss("its slopes may widen its input")
    if not _expandable(graph, x, node.outputs[0]):
        return False

    name = node.outputs[0].name
    zero = scalars.constant(f"{name}.zero", 0, np.dtype(np.float32))
    low = scalars.step(graph, "Min", f"{name}.low", x, x, zero)
    negative = scalars.step(graph, "Mul", f"{name}.negative", x, low, slopes)
    positive = scalars.step(graph, "Relu", f"{name}.positive", x, x)
    return scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[positive, negative]))


def _leaky(graph: gs.Graph, node: gs.Node, x: gs.Tensor, slope: float) -> bool:
    if not np.isfinite(slope):
        return False
    if match.quantized(x, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    attributes = {"alpha": float(np.float32(slope))}
    new = ir.Node("LeakyRelu", node.name, attrs=attributes, inputs=[x])
    return scalars.finish(graph, node, new)


def _mish(graph: gs.Graph, tanh: gs.Node) -> tuple[gs.Tensor | None, gs.Node | None]:
    """Return x and the product of x * tanh(softplus(x))."""
    softplus = match.sole(graph, tanh.inputs[0], "Softplus")
    product = match.sole_reader(graph, tanh.outputs[0], "Mul")
    if softplus is None or product is None:
        return None, None
    x = softplus.inputs[0]
    return (x, product) if any(t is x for t in product.inputs) else (None, None)


def _expandable(graph: gs.Graph, x: gs.Tensor, out: gs.Tensor) -> bool:
    """Whether a function of x may be written as arithmetic, by its type and place."""
    if graph.opset < 8 or scalars.kind(x, out) != np.float32:
        return False
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    return True


def _covers(dims: tuple[int | str | None, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether broadcasting with a shape leaves these dimensions as they are."""
    if not shape:
        return True
    if dims is None or len(dims) < len(shape):
        return False
    return all(n in (1, d) for n, d in zip(reversed(shape), reversed(dims), strict=False))


RULES: tuple[Rule, ...] = (
    Rule("leaky_prelu", ("PRelu",), fuse_uniform_prelu),
    Rule("leaky_max", ("Max",), fuse_max_leaky),
    Rule("leaky_where", ("Where",), fuse_where_leaky),
)
"""In the order in which they are tried."""

ORT_CPU_RULES: tuple[Rule, ...] = (
    Rule("mish", ("Mish", "Tanh"), expand_mish),
    Rule("softplus", ("Softplus",), expand_softplus),
    Rule("elu", ("Elu",), expand_elu),
    Rule("prelu", ("PRelu",), expand_prelu),
)
"""What onnxruntime's own kernels are slower than, except on small tensors."""

"""Powers, quotients and norms in the operations that compute them directly.

x ** 2      ->  x * x
x ** 0.5    ->  Sqrt(x)                   x is known not to be negative
x ** -0.5   ->  Reciprocal(Sqrt(x))       the same
x ** -1     ->  Reciprocal(x)
x / c       ->  x * (1 / c)               c constant

For onnxruntime:

x ** 3      ->  x * x * x
ReduceL2(x) ->  Sqrt(ReduceSum(x * x))    over the last axes

Where x may be negative the roots are left alone: of -Inf Pow gives Inf and Sqrt NaN, and of -0 it
gives 0 and Sqrt -0, whose reciprocals are as far apart as can be; so -0 counts as negative here.
1 / c must be a normal number. What onnxruntime recognises as part of something larger stays: a
square that is averaged (LayerNormalization), a cube or quotient in a GELU, a quotient of a MatMul
(attention).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

DEPTH = 8
"""Nodes that are followed to find that a tensor is not negative."""

POSITIVE = (
    *("Abs", "Exp", "Sigmoid", "Softmax", "Softplus"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare"),
)
"""Ops whose results are never negative, nor -0."""

KEEPING = (
    *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Sqrt"),
    *("ReduceMean", "ReduceSum", "ReduceMin", "GlobalAveragePool"),
)
"""Ops that make no sign where there was none."""

AXES_OF_SUM, AXES_OF_NORM = 13, 18
"""The opsets from which on the axes of ReduceSum and ReduceL2 are inputs."""


def fuse_pow(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a power with a small exponent by the operation for it."""
    found = _power(graph, node)
    if found is None:
        return False
    x, exponent = found
    make = FORMS.get(exponent)
    if make is None:
        return False
    if exponent == 2 and any(match.is_op(r, "ReduceMean") for r in node.outputs[0].outputs):
        return match.miss("its mean is taken: onnxruntime may know a normalization by it")
    if abs(exponent) == 0.5 and not _positive(graph, x, DEPTH):
        return match.miss("its base is not known to be positive")
    return scalars.finish(graph, node, make(graph, node, x))


def expand_cube(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a third power as two products."""
    found = _power(graph, node)
    if found is None or found[1] != 3:
        return False
    x, out = found[0], node.outputs[0]
    for reader in out.outputs:
        scale = scalars.scaled(reader)
        if scale is not None and abs(scale[1] - 0.044715) < 1e-4:
            return match.miss("it is part of a GELU")
    square = scalars.step(graph, "Mul", f"{out.name}.square", x, x, x)
    return scalars.finish(graph, node, ir.Node("Mul", node.name, inputs=[square, x]))


def fuse_div(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a division by a constant as a multiplication."""
    if graph.opset < scalars.BROADCASTS:
        return False
    x, divisor = node.inputs
    values = match.constant(divisor)
    if values is None or not values.size or values.dtype not in scalars.FLOATS:
        return False
    if match.constant(x) is not None or not scalars.spare(divisor):
        return False
    if match.is_op(match.producer(x), "MatMul", "Gemm", "Einsum"):
        return match.miss("onnxruntime folds it into the MatMul")
    if any(match.is_op(reader, "Erf") for reader in node.outputs[0].outputs):
        return match.miss("onnxruntime knows a GELU by it")
    if match.quantized(x, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    with np.errstate(all="ignore"):
        inverse = np.asarray(1.0 / values.astype(np.float64), values.dtype)
    if not np.isfinite(inverse).all() or (np.abs(inverse) < np.finfo(values.dtype).tiny).any():
        return match.miss("the inverse of its divisor is no normal number")
    factor = ir.Constant(f"{node.outputs[0].name}.factor", inverse)
    return scalars.finish(graph, node, ir.Node("Mul", node.name, inputs=[x, factor]))


def expand_norm(graph: gs.Graph, node: gs.Node) -> bool:
    """Compute a ReduceL2 over the last axes from its parts, which are vectorised."""
    x, out = node.inputs[0], node.outputs[0]
    axes, dims = match.integers(node, 1, "axes"), shapes.dims(x)
    keep = match.attribute(node, "keepdims", 1)
    if not axes or dims is None or scalars.kind(x, out) != np.float32 or not isinstance(keep, int):
        return False
    if match.attribute(node, "noop_with_empty_axes", 0) != 0:
        return False
    last = sorted(a % len(dims) for a in axes)
    if last != list(range(len(dims) - len(last), len(dims))):
        return match.miss("its axes are not the last ones")
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    square = scalars.step(graph, "Mul", f"{out.name}.square", x, x, x)
    inputs = [square]
    attributes: dict[str, int | list[int]] = {"keepdims": keep}
    if graph.opset < AXES_OF_SUM:
        attributes["axes"] = axes
    elif graph.opset < AXES_OF_NORM:
        inputs.append(ir.Constant(f"{out.name}.axes", np.array(axes, np.int64)))
    else:
        inputs.append(node.inputs[1])
    total = ir.Variable(f"{out.name}.sum")
    shapes.note(total, shapes.dtype(out), shapes.dims(out))
    name = f"{out.name}.sum"
    match.insert(
        graph, ir.Node("ReduceSum", name, attrs=attributes, inputs=inputs, outputs=[total])
    )
    return scalars.finish(graph, node, ir.Node("Sqrt", node.name, inputs=[total]))


def _power(graph: gs.Graph, node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """Return the base and exponent of a Pow of floats by one number that does not widen it."""
    x, exponent = node.inputs
    values = match.constant(exponent)
    if graph.opset < scalars.BROADCASTS or values is None or values.size != 1:
        return None
    rank = shapes.dims(x)
    if values.dtype.kind not in "fi" or (values.ndim and (rank is None or len(rank) < values.ndim)):
        return None
    if scalars.kind(x, node.outputs[0]) not in scalars.FLOATS:
        return None
    if match.quantized(x, node.outputs[0]):
        match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
        return None
    return x, float(values.reshape(-1)[0])


def _positive(graph: gs.Graph, tensor: gs.Tensor, depth: int) -> bool:
    """Whether no element of a tensor is negative, or -0; NaN may be."""
    values = match.constant(tensor)
    if values is not None:
        return values.dtype in scalars.FLOATS and not np.signbit(values).any()
    node = match.producer(tensor)
    if node is None or depth == 0:
        return False
    if match.is_op(node, *POSITIVE):
        return True
    if match.is_op(node, *KEEPING):
        return _positive(graph, node.inputs[0], depth - 1)
    if match.is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
        return True
    if match.is_op(node, "Pow"):
        exponent = match.scalar(node.inputs[1])
        return exponent is not None and float(exponent) % 2 == 0
    if match.is_op(node, "Add", "Mul", "Div"):
        return all(_positive(graph, t, depth - 1) for t in node.inputs)
    return False


def _square(graph: gs.Graph, node: gs.Node, x: gs.Tensor) -> gs.Node:
    return ir.Node("Mul", node.name, inputs=[x, x])


def _root(graph: gs.Graph, node: gs.Node, x: gs.Tensor) -> gs.Node:
    return ir.Node("Sqrt", node.name, inputs=[x])


def _inverse(graph: gs.Graph, node: gs.Node, x: gs.Tensor) -> gs.Node:
    return ir.Node("Reciprocal", node.name, inputs=[x])


def _inverse_root(graph: gs.Graph, node: gs.Node, x: gs.Tensor) -> gs.Node:
    root = scalars.step(graph, "Sqrt", f"{node.outputs[0].name}.root", x, x)
    return ir.Node("Reciprocal", node.name, inputs=[root])


FORMS: dict[float, Callable[[gs.Graph, gs.Node, gs.Tensor], gs.Node]] = {
    2.0: _square,
    0.5: _root,
    -1.0: _inverse,
    -0.5: _inverse_root,
}
"""What makes the node for an exponent."""

RULES: tuple[Rule, ...] = (
    Rule("pow", ("Pow",), fuse_pow),
    Rule("div", ("Div",), fuse_div),
)
"""In the order in which they are tried: after divisions that other rules know patterns by."""

ORT_CPU_RULES: tuple[Rule, ...] = (
    Rule("cube", ("Pow",), expand_cube),
    Rule("norm", ("ReduceL2",), expand_norm),
)
"""What onnxruntime's own kernels are slower than."""

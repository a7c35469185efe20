"""HardSigmoid and HardSwish from the arithmetic that exporters write instead.

clip(x * a + b, 0, c)      ->  HardSigmoid(x; alpha = a / c, beta = b / c) * c
x * HardSigmoid(x; 1/6, 1/2)  ->  HardSwish(x)                                  from opset 14 on

The factor c goes into a multiplication by constants nearby, which thereby mostly becomes one by 1
and vanishes: Paddle, PyTorch and TensorFlow all divide by it somewhere, each at another place.

clip(..) * k           k may have any shape
x * clip(..) * k
(x * k) * clip(..)     k / .., and division instead of multiplication

Where nothing takes it up the rewrite would not pay. b = 0 is left alone: a ReLU6. The types are
float16 and float32, since onnxruntime has no HardSigmoid of float64. Exact but for rounding: NaN
stays NaN, and -Inf times 0 too; x * 6 cannot overflow any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

HARD_SWISH = 14
"""The opset that has it."""

TINY = float(np.finfo(np.float32).tiny)
"""The least slope: attributes are float32."""


@dataclass(frozen=True)
class Factor:
    """A multiplication by a constant, or division, that takes up another factor.

    Attributes:
        node: The Mul or Div.
        index: Which of its inputs is the constant.
        values: The constant after that; None if it would be 1 and the node can go.
    """

    node: gs.Node
    index: int
    values: np.ndarray | None


def fuse_hard_sigmoid(graph: gs.Graph, clip: gs.Node) -> bool:
    """Write a clipped line as a HardSigmoid."""
    if graph.opset < scalars.BROADCASTS:
        return False
    limits = scalars.bounds(graph, clip)
    line = _line(graph, clip.inputs[0])
    if limits is None or line is None or limits[0] != 0:
        return False
    x, a, b, dtype = line
    top, out = limits[1], clip.outputs[0]
    if not 0 < top < scalars.LARGEST or dtype not in scalars.SINGLE:
        return False
    if not TINY <= abs(a / top) < math.inf or not math.isfinite(b / top):
        return False
    factor = None if top == 1 else _factor(graph, out, top, dtype)
    if top != 1 and factor is None:
        return match.miss(f"no multiplication by a constant takes up the factor {top:g}")
    if match.quantized(x, out if factor is None else factor.node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    attributes = {"alpha": float(np.float32(a / top)), "beta": float(np.float32(b / top))}
    new = ir.Node("HardSigmoid", clip.name, attrs=attributes, inputs=[x])
    scalars.finish(graph, clip, new)
    if factor is not None:
        _take_up(graph, factor)
    return True


def fuse_hard_swish(graph: gs.Graph, mul: gs.Node) -> bool:
    """Write x * HardSigmoid(x) as one HardSwish."""
    if graph.opset < HARD_SWISH:
        return False
    for x, gate in (mul.inputs, reversed(mul.inputs)):
        node = match.producer(gate)
        if node is None or not match.is_op(node, "HardSigmoid") or node.inputs[0] is not x:
            continue
        if not _is_hard_swish(node):
            continue
        if match.sole(graph, gate) is None:
            return match.miss("others read the HardSigmoid too")
        if match.quantized(x, mul.outputs[0]):
            return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
        return scalars.finish(graph, mul, ir.Node("HardSwish", mul.name, inputs=[x]))
    return False


def _is_hard_swish(node: gs.Node) -> bool:
    alpha = match.attribute(node, "alpha", 0.2)
    beta = match.attribute(node, "beta", 0.5)
    if not isinstance(alpha, float) or not isinstance(beta, float):
        return False
    return scalars.close(alpha, 1 / 6, np.dtype(np.float32)) and beta == 0.5


def _line(
    graph: gs.Graph, tensor: gs.Tensor
) -> tuple[gs.Tensor, float, float, np.dtype | None] | None:
    """Return x, a, b and the type of a tensor x * a + b that nobody else reads; None if b is 0."""
    add = match.sole(graph, tensor, "Add", "Sub")
    line = scalars.shifted(add)
    if add is None or line is None or line[1] == 0:
        return None
    dtype = scalars.kind(*add.inputs)
    scale = scalars.scaled(match.sole(graph, line[0], "Mul", "Div"))
    if scale is None:
        return line[0], 1.0, line[1], dtype
    return scale[0], scale[1], line[1], dtype


def _factor(graph: gs.Graph, out: gs.Tensor, top: float, dtype: np.dtype) -> Factor | None:
    """Return the multiplication nearby that can take up a factor of a tensor."""
    reader = match.sole_reader(graph, out, "Mul", "Div")
    if reader is None:
        return None
    found = _rescaled(reader, out, top, dtype)
    if found is not None or reader.op == "Div":
        return found
    product = reader.outputs[0]
    after = match.sole_reader(graph, product, "Mul", "Div")
    found = None if after is None else _rescaled(after, product, top, dtype)
    if found is not None:
        return found
    other = next((t for t in reader.inputs if t is not out), out)
    before = match.sole(graph, other, "Mul", "Div")
    data = None if before is None else _variable(before)
    if before is None or data is None:
        return None
    return _rescaled(before, data, top, dtype)


def _variable(node: gs.Node) -> gs.Tensor | None:
    """Return the one input of a Mul or Div that is not constant."""
    varying = [t for t in node.inputs if match.constant(t) is None]
    return varying[0] if len(varying) == 1 else None


def _rescaled(node: gs.Node, data: gs.Tensor, top: float, dtype: np.dtype) -> Factor | None:
    """Return a Mul or Div of `data` by a constant with `top` in that; None if it is no such."""
    index = 1 if node.inputs[0] is data else 0
    values = match.constant(node.inputs[index])
    if values is None or values.dtype != dtype or (node.op == "Div" and not index):
        return None
    if not scalars.spare(node.inputs[index]):
        return None
    wide = values.astype(np.float64)
    with np.errstate(all="ignore"):
        wide = np.asarray(wide / top if node.op == "Div" else wide * top)
        result = wide.astype(dtype)
    if not np.isfinite(result).all() or (np.abs(result[wide != 0]) < np.finfo(dtype).tiny).any():
        return None
    alone = scalars.number(node.inputs[index], data)
    if alone is not None and scalars.close(float(wide.reshape(-1)[0]), 1.0, dtype):
        return Factor(node, index, None)
    return Factor(node, index, result)


def _take_up(graph: gs.Graph, factor: Factor) -> None:
    """Give a multiplication its new constant, or take it out where that is 1."""
    node, out = factor.node, factor.node.outputs[0]
    data, old = node.inputs[1 - factor.index], node.inputs[factor.index]
    if factor.values is not None:
        new = ir.Constant(f"{out.name}.factor", factor.values)
        node.inputs = [new if i == factor.index else t for i, t in enumerate(node.inputs)]
    elif match.replace(out, data):
        match.remove(node)
    else:  # a graph returns `out`, so what makes `data` makes it instead
        maker = data.inputs[0]
        match.remove(node)
        maker.outputs = [out]
    scalars.discard(graph, old)


RULES: tuple[Rule, ...] = (
    Rule("hard_sigmoid", ("Clip",), fuse_hard_sigmoid),
    Rule("hard_swish", ("Mul",), fuse_hard_swish),
)
"""In the order in which they are tried: before arithmetic is folded into layers."""

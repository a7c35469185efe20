"""GELU from its decompositions, with erf and with tanh.

x * 0.5 * (1 + erf(x / sqrt 2))                                   ->  Gelu(x)
x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))      ->  Gelu(x, approximate="tanh")

From opset 20 on, which has Gelu. Before that the same arithmetic is written in the one order that
onnxruntime recognises, because it misses most others; the form with tanh only for onnxruntime,
which wants a Pow there that other runtimes may run slower:

0.5 * (x * (1 + erf(x / sqrt 2)))
(x * 0.5) * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))

1 - f(-y) is 1 + f(y), for both. In which order, and merged in which way, the arithmetic comes does
not matter: the argument of erf or tanh is compared as a polynomial in x, and the product around by
its factors. The types are float16 and float32, since onnxruntime has no Erf of float64.

x * sigmoid(x) and x * sigmoid(1.702 * x) have nothing to gain: onnxruntime fuses them as they are,
and the Swish of opset 24 it does not.
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

GELU = 20
"""The opset that has it."""

DEGREE = 3

DEPTH = 6
"""Nodes from the argument of tanh up to x, at most."""

FACTORS = 3
"""Multiplications around 1 + erf or 1 + tanh, at most."""

ROOT = math.sqrt(2 / math.pi)

ARGUMENT = {
    "Erf": np.array([0, math.sqrt(0.5), 0, 0]),
    "Tanh": np.array([0, ROOT, 0, ROOT * 0.044715]),
}
"""What the argument is as a polynomial in x, by ascending powers."""


@dataclass(frozen=True)
class Product:
    """(1 + f) * x * k, where f is an Erf or Tanh.

    Attributes:
        last: The multiplication that makes it.
        x: The tensor.
        one: 1 + f.
        fused: Whether the factors come in the order that onnxruntime knows for Erf.
        halved: Whether they come in the order that it knows for Tanh.
    """

    last: gs.Node
    x: gs.Tensor
    one: gs.Tensor
    fused: bool
    halved: bool


def fuse_gelu(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a decomposed GELU as a Gelu."""
    if graph.opset < GELU:
        return False
    found = _gelu(graph, node)
    if found is None:
        return False
    attributes = {} if node.op == "Erf" else {"approximate": "tanh"}
    new = ir.Node("Gelu", found.last.name, attrs=attributes, inputs=[found.x])
    return scalars.finish(graph, found.last, new)


def order_erf_gelu(graph: gs.Graph, erf: gs.Node) -> bool:
    """Write a GELU with erf in the order that onnxruntime recognises."""
    if graph.opset >= GELU:
        return False
    found = _gelu(graph, erf)
    if found is None:
        return False
    x, argument = found.x, match.producer(erf.inputs[0])
    dtype = scalars.kind(x, found.one)
    if dtype != np.float32:
        return match.miss("it is not float32")
    divided = match.is_op(argument, "Div") and argument.inputs[0] is x  # type: ignore[union-attr]
    if divided and found.fused and match.is_op(match.producer(found.one), "Add"):
        return False

    name = found.last.outputs[0].name
    root = scalars.constant(f"{name}.root", math.sqrt(2), dtype)
    old = erf.inputs[0]
    erf.inputs = [scalars.step(graph, "Div", f"{name}.argument", x, x, root)]
    _add_one(found)
    scalars.discard(graph, old)
    product = scalars.step(graph, "Mul", f"{name}.product", x, x, found.one)
    half = scalars.constant(f"{name}.half", 0.5, dtype)
    return scalars.finish(
        graph, found.last, ir.Node("Mul", found.last.name, inputs=[product, half])
    )


def order_tanh_gelu(graph: gs.Graph, tanh: gs.Node) -> bool:
    """Write a GELU with tanh in the order that onnxruntime recognises."""
    if graph.opset >= GELU:
        return False
    found = _gelu(graph, tanh)
    if found is None:
        return False
    x, out = found.x, found.last.outputs[0]
    dtype = scalars.kind(x, found.one)
    if dtype != np.float32:
        return match.miss("it is not float32")
    if match.fetched(out):
        return match.miss("a graph returns it: onnxruntime does not recognise it then")
    if found.halved and _ordered(graph, tanh, x):
        return False

    name = out.name
    three = scalars.constant(f"{name}.three", 3, dtype)
    cube = scalars.step(graph, "Pow", f"{name}.cube", x, x, three)
    small = scalars.constant(f"{name}.small", 0.044715, dtype)
    term = scalars.step(graph, "Mul", f"{name}.term", x, cube, small)
    total = scalars.step(graph, "Add", f"{name}.sum", x, x, term)
    root = scalars.constant(f"{name}.root", ROOT, dtype)
    old = tanh.inputs[0]
    tanh.inputs = [scalars.step(graph, "Mul", f"{name}.argument", x, total, root)]
    _add_one(found)
    scalars.discard(graph, old)
    half = scalars.constant(f"{name}.half", 0.5, dtype)
    halved = scalars.step(graph, "Mul", f"{name}.halved", x, x, half)
    new = ir.Node("Mul", found.last.name, inputs=[halved, found.one])
    return scalars.finish(graph, found.last, new)


def _gelu(graph: gs.Graph, node: gs.Node) -> Product | None:
    """Return the product around an Erf or Tanh if all of it is a GELU."""
    if graph.opset < scalars.BROADCASTS:
        return None
    add = match.sole_reader(graph, node.outputs[0], "Add", "Sub")
    if add is None or not _one_more(add, node.outputs[0]):
        return None
    found = _product(graph, add.outputs[0])
    if found is None or scalars.kind(found.x, add.outputs[0]) not in scalars.SINGLE:
        return None
    dtype = scalars.kind(found.x, add.outputs[0]) or np.dtype(np.float32)
    argument = _polynomial(graph, node.inputs[0], found.x, DEPTH)
    if argument is None or len(argument) > DEGREE + 1:
        return None
    want = ARGUMENT[node.op] if add.op == "Add" else -ARGUMENT[node.op]
    if not all(_near(c, w, dtype) for c, w in zip(argument, want, strict=True)):
        return None
    if match.quantized(found.x, found.last.outputs[0]):
        match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
        return None
    return found


def _add_one(found: Product) -> None:
    """Make 1 + f of 1 - f, where f has got the argument of the other sign."""
    for node in found.one.inputs:
        node.op = "Add"


def _one_more(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node is 1 + f, or 1 - f, of a tensor f."""
    left, right = node.inputs
    if node.op == "Add" and left is tensor:
        left, right = right, left
    return right is tensor and scalars.number(left, right) == 1


def _near(value: float, target: float, dtype: np.dtype) -> bool:
    # 0.7978845608 * 0.044715, and each of the two may have been rounded
    return scalars.close(value, target, dtype) if target else value == 0


def _product(graph: gs.Graph, one: gs.Tensor) -> Product | None:
    """Follow multiplications down from 1 + f until they are by x and by 1/2."""
    tensor, factor = one, 1.0
    x: gs.Tensor | None = None
    order: list[str] = []
    for _ in range(FACTORS):
        reader = match.sole_reader(graph, tensor, "Mul", "Div")
        scale = scalars.scaled(reader)
        if reader is None:
            return None
        if scale is not None:
            factor *= scale[1]
            order.append("k")
        elif x is None and reader.op == "Mul":
            left, right = reader.inputs
            x = right if left is tensor else left
            halved = scalars.scaled(match.sole(graph, x, "Mul", "Div"))
            if halved is not None and halved[1] == 0.5:
                x, factor = halved[0], factor * 0.5
                order.append("h" if left is not tensor else "g")
            else:
                order.append("x")
        else:
            return None
        tensor = reader.outputs[0]
        if x is not None and factor == 0.5:
            form = "".join(order)
            return Product(reader, x, one, form in ("xk", "h", "g"), form == "h")
    return None


def _polynomial(graph: gs.Graph, tensor: gs.Tensor, x: gs.Tensor, depth: int) -> np.ndarray | None:
    """Return a tensor as a polynomial in x of degree 3; None if it is none."""
    if tensor is x:
        return np.array([0.0, 1.0, 0.0, 0.0])
    value = scalars.number(tensor, x)
    if value is not None:
        return np.array([value, 0.0, 0.0, 0.0])
    node = match.producer(tensor)
    if node is None or depth == 0 or not match.here(graph, node):
        return None
    if not match.is_op(node, "Add", "Sub", "Mul", "Div", "Pow"):
        return None
    left, right = (_polynomial(graph, t, x, depth - 1) for t in node.inputs)
    if left is None or right is None:
        return None
    return _combined(node.op, left, right)


def _combined(op: str, left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    result: np.ndarray
    if op in ("Add", "Sub"):
        result = left + right if op == "Add" else left - right
        return result
    if op == "Mul":
        return _times(left, right)
    if right[1:].any() or right[0] == 0:
        return None
    if op == "Div":
        result = left / right[0]
        return result
    if right[0] == 2:
        return _times(left, left)
    square = _times(left, left) if right[0] == 3 else None
    return None if square is None else _times(square, left)


def _times(left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    whole = np.convolve(left, right)
    return None if whole[DEGREE + 1 :].any() else whole[: DEGREE + 1]


def _ordered(graph: gs.Graph, tanh: gs.Node, x: gs.Tensor) -> bool:
    """Whether the argument of a Tanh is (x + 0.044715 * Pow(x, 3)) * sqrt(2 / pi)."""
    scale = scalars.scaled(match.sole(graph, tanh.inputs[0], "Mul"))
    add = None if scale is None else match.sole(graph, scale[0], "Add")
    if add is None or not any(t is x for t in add.inputs):
        return False
    term = next((t for t in add.inputs if t is not x), x)
    scale = scalars.scaled(match.sole(graph, term, "Mul"))
    cube = None if scale is None else match.sole(graph, scale[0], "Pow")
    return cube is not None and cube.inputs[0] is x


RULES: tuple[Rule, ...] = (
    Rule("gelu", ("Erf", "Tanh"), fuse_gelu),
    Rule("gelu_order", ("Erf",), order_erf_gelu),
)
"""In the order in which they are tried: before divisions become multiplications."""

ORT_CPU_RULES: tuple[Rule, ...] = (Rule("fast_gelu_order", ("Tanh",), order_tanh_gelu),)
"""What onnxruntime runs faster in one order than in others."""

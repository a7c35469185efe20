"""Which nodes may run in integers: those that onnxruntime has 8-bit kernels for, as it writes them.

A *unit* is one such node, with the bound behind it (Relu, Clip, Max, Min) that saturation of the
integers absorbs.
Units that *compute* stand between DequantizeLinear and QuantizeLinear, and onnxruntime fuses the
three. Units that *move* elements work on the integers themselves: the same operator, on 8 bits.
Left out although onnxruntime would take them: Softmax, whose integer kernel costs accuracy, and
operators around which Q/DQ only add work (LayerNormalization, ConvTranspose).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt_passes.quant import gating

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

FLOAT = np.dtype(np.float32)

WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Units with a constant weight, the second input."""

COMPUTED = (
    "Add",
    "Mul",
    "Sigmoid",
    "LeakyRelu",
    "GlobalAveragePool",
    "AveragePool",
    "Concat",
    *gating.OPS,
)
"""Units that compute and have no weight."""

MOVED = (
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Split",
    "Pad",
    "MaxPool",
    "DepthToSpace",
    "SpaceToDepth",
    "Resize",
    "Relu",
)
"""Units that move: the integers of the output are some of those of the input."""


BOUNDS = ("Relu", "Clip", "Max", "Min")
"""What saturation of integers can stand for."""


@dataclass(frozen=True)
class Unit:
    """A node that may run in integers.

    Attributes:
        name: The node's label: how plans and edit ids call it.
        node: The node.
        activation: The bound behind it that goes, None if there is none.
        inputs: Float tensors that it reads and that are not constant.
        output: What it makes, behind the activation.
    """

    name: str
    node: gs.Node
    activation: gs.Node | None
    inputs: tuple[gs.Tensor, ...]
    output: gs.Tensor

    @property
    def moves(self) -> bool:
        """Whether it works on the integers themselves."""
        return self.node.op in MOVED

    @property
    def weighted(self) -> bool:
        """Whether it has a constant weight, its second input."""
        return self.node.op in WEIGHTED


def label(node: gs.Node) -> str:
    """Return how a node is called here: its first output, which is unique in a graph."""
    return node.outputs[0].name


def find(graph: gs.Graph) -> list[Unit]:
    """Return the units of a graph whose shapes were inferred, in its order."""
    match.stamp(graph)
    found: list[Unit] = []
    gone: set[int] = set()
    for node in graph.nodes:
        if id(node) in gone:
            continue
        if not match.is_op(node, *WEIGHTED, *COMPUTED, *MOVED) or _touched(node):
            continue
        if not GUARDS.get(node.op, _any)(node) or shapes.dtype(node.outputs[0]) != FLOAT:
            continue
        inputs = tuple(t for t in _activations(node) if match.constant(t) is None)
        if not inputs or any(shapes.dtype(t) != FLOAT or not t.name for t in inputs):
            continue
        alone = node.op in MOVED or node.op in gating.OPS
        activation = None if alone else _absorbed(graph, node)
        if activation is not None:
            gone.add(id(activation))
        output = node.outputs[0] if activation is None else activation.outputs[0]
        found.append(Unit(label(node), node, activation, inputs, output))
    return found


def _touched(node: gs.Node) -> bool:
    """Whether it already stands at a DequantizeLinear or QuantizeLinear."""
    above = (match.producer(t) for t in node.inputs)
    below = (reader for t in node.outputs for reader in t.outputs)
    return any(match.is_op(n, "DequantizeLinear") for n in above) or any(
        match.is_op(n, "QuantizeLinear") for n in below
    )


def _activations(node: gs.Node) -> list[gs.Tensor]:
    if node.op in ("Add", "Mul", "Concat"):
        return list(node.inputs)
    return list(node.inputs[:1])


def _absorbed(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """Return the bound that is the only reader of a node and lets zero through."""
    reader = match.sole_reader(graph, node.outputs[0], *BOUNDS)
    return None if reader is None or bounds(reader) is None else reader


def bounds(node: gs.Node) -> tuple[float, float] | None:
    """Return the range that a constant bound leaves; None without zero in it."""
    low, high = 0.0, np.inf
    if node.op == "Clip":
        limits: list[float] = []
        for index, default in ((1, -np.inf), (2, np.inf)):
            value = match.scalar(node.inputs[index]) if match.given(node, index) else default
            if value is None:
                return None
            limits.append(float(value))
        low, high = limits
    elif node.op in ("Max", "Min"):
        limit = _limit(node)
        if limit is None:
            return None
        low, high = (limit, np.inf) if node.op == "Max" else (-np.inf, limit)
    return (low, high) if low <= 0 <= high and low < high else None


def _limit(node: gs.Node) -> float | None:
    """Return the number that a Max or Min compares one tensor of the same shape with."""
    if len(node.inputs) != 2:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        value, shape = match.scalar(other), shapes.dims(x)
        if value is None or match.constant(x) is not None or shape is None:
            continue
        constant = match.constant(other)
        if constant is not None and constant.ndim <= len(shape):
            return float(value)
    return None


def _any(node: gs.Node) -> bool:
    return len(node.outputs) == 1


def _constant(node: gs.Node, index: int, least_rank: int) -> bool:
    values = match.constant(node.inputs[index])
    return values is not None and values.dtype == FLOAT and values.ndim >= least_rank


def _conv(node: gs.Node) -> bool:
    return _constant(node, 1, 3) and (not match.given(node, 2) or _constant(node, 2, 1))


def _matmul(node: gs.Node) -> bool:
    weight = match.constant(node.inputs[1])
    return weight is not None and bool(weight.dtype == FLOAT and weight.ndim == 2)


def _gemm(node: gs.Node) -> bool:
    if not _constant(node, 1, 2) or match.attribute(node, "transA", 0) != 0:
        return False
    if match.attribute(node, "alpha", 1.0) != 1 or match.attribute(node, "beta", 1.0) != 1:
        return False
    if not match.given(node, 2):
        return True
    bias, weight = match.constant(node.inputs[2]), node.inputs[1]
    columns = weight.shape[0 if match.attribute(node, "transB", 0) else 1]  # type: ignore[attr-defined]
    return bias is not None and bool(bias.dtype == FLOAT and bias.size == columns)


def _average(node: gs.Node) -> bool:
    return match.attribute(node, "ceil_mode", 0) == 0 and len(node.outputs) == 1


def _max(node: gs.Node) -> bool:
    return len(node.outputs) == 1 and match.attribute(node, "storage_order", 0) == 0


def _resize(node: gs.Node) -> bool:
    if match.attribute(node, "mode", "nearest") != "nearest":
        return False
    return bool(match.attribute(node, "coordinate_transformation_mode", "") != "tf_crop_and_resize")


def _pad(node: gs.Node) -> bool:
    if match.attribute(node, "mode", "constant") != "constant":
        return False
    return not match.given(node, 2) or match.scalar(node.inputs[2]) == 0


def _gate(node: gs.Node) -> bool:
    return len(node.outputs) == 1 and gating.able(node)


def _several(node: gs.Node) -> bool:
    return True


GUARDS: dict[str, Callable[[gs.Node], bool]] = {
    "Conv": _conv,
    "HardSigmoid": _gate,
    "HardSwish": _gate,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "AveragePool": _average,
    "MaxPool": _max,
    "Resize": _resize,
    "Pad": _pad,
    "Split": _several,
}
"""What an operator must hold beyond its types."""

"""The linear layers of a graph: Conv, and Gemm and MatMul, which read their rows as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics.im2col import SPATIAL, ConvLinear
from onnxopt.statistics.layer import Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

FLOATS = frozenset("f")
"""Kinds of element types that are fitted; bfloat16 and narrower have no numpy kind of float."""


@dataclass(frozen=True)
class TokenLinear(Linear):
    """A Gemm, or a MatMul by a matrix: rows are all but the last axis of its input.

    Attributes:
        transposed: Whether the weight is stored as W (outputs, inputs), not as its transpose.
        alpha: Gemm's factor of the product.
        beta: Gemm's factor of the bias.
    """

    transposed: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def factor(self) -> float:  # noqa: D102
        return self.alpha

    @property
    def input_axis(self) -> int:  # noqa: D102
        return 1 if self.transposed else 0

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        first, second = self.weight.shape
        return (1, first, second) if self.transposed else (1, second, first)

    def arranged(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        return (values if self.transposed else values.T)[None]

    def restored(self, matrix: np.ndarray) -> np.ndarray:  # noqa: D102
        found: np.ndarray = matrix[0] if self.transposed else matrix[0].T
        return found

    def channel_axis(self, rank: int) -> int:  # noqa: D102
        return rank - 1

    def _scale_of_bias(self) -> float:
        return self.beta

    def positions(self, shape: Sequence[int]) -> int:  # noqa: D102
        return math.prod(shape[:-1])

    def rows(self, x: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        return self.targets(x, picks)

    def targets(self, y: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.ascontiguousarray(y.reshape(-1, y.shape[-1])[picks][None], np.float32)


def find(graph: gs.Graph, node: gs.Node) -> Linear | None:
    """Return a node of the main graph as a linear layer, None where it is none or cannot be edited.

    The weight has to be a float initializer that only this node reads. `match.stamp` must have
    been called. Near misses are named by `match.miss`.
    """
    if not match.is_op(node, "Conv", "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    values = match.constant(weight)
    if values is None or not isinstance(weight, ir.Constant):
        return None
    if values.dtype.kind not in FLOATS or values.size == 0:
        return None
    if len(weight.outputs) != 1 or match.fetched(weight):
        match.miss("other nodes read its weight")
        return None
    bias = node.inputs[2] if match.given(node, 2) else None
    if bias is not None and not isinstance(bias, ir.Constant):
        match.miss("its bias is computed")
        return None
    if node.op == "Conv":
        return _conv(node, weight, bias)
    return _gemm(node, weight, bias) if node.op == "Gemm" else _matmul(graph, node, weight)


def find_all(graph: gs.Graph) -> list[Linear]:
    """Return all linear layers of a graph that can be edited, in its order."""
    match.stamp(graph)
    return [layer for node in graph.nodes if (layer := find(graph, node)) is not None]


def _conv(node: gs.Node, weight: gs.Constant, bias: gs.Constant | None) -> Linear | None:
    rank = len(weight.shape) - 2
    groups = match.attribute(node, "group", 1)
    strides = match.attribute(node, "strides", [1] * rank)
    dilations = match.attribute(node, "dilations", [1] * rank)
    auto = match.attribute(node, "auto_pad", "NOTSET")
    pads = match.attribute(node, "pads", [0] * (2 * rank))
    lists = (strides, dilations, pads)
    if not isinstance(groups, int) or not all(isinstance(v, list) for v in lists):
        return None
    if auto not in ("NOTSET", "VALID", *SPATIAL) or rank < 1:
        return None
    return ConvLinear(
        node,
        weight,
        bias,
        node.outputs[0],
        groups=groups,
        strides=tuple(strides),
        dilations=tuple(dilations),
        pads=tuple(pads) if auto == "NOTSET" else None,
        auto=auto,
    )


def _gemm(node: gs.Node, weight: gs.Constant, bias: gs.Constant | None) -> Linear | None:
    transposed, alpha, beta = (
        match.attribute(node, name, default)
        for name, default in (("transB", 0), ("alpha", 1.0), ("beta", 1.0))
    )
    if match.attribute(node, "transA", 0) != 0 or transposed not in (0, 1):
        return None
    numbers = isinstance(alpha, (int, float)) and isinstance(beta, (int, float))
    if not numbers or alpha == 0 or beta == 0 or len(weight.shape) != 2:
        return None
    if bias is not None and len(bias.shape) > 1 and bias.shape[0] != 1:
        match.miss("its bias differs from row to row")
        return None
    return TokenLinear(
        node,
        weight,
        bias,
        node.outputs[0],
        transposed=bool(transposed),
        alpha=float(alpha),
        beta=float(beta),
    )


def _matmul(graph: gs.Graph, node: gs.Node, weight: gs.Constant) -> Linear | None:
    if len(weight.shape) != 2:
        return None
    layer = TokenLinear(node, weight, None, node.outputs[0], biased=False)
    add = match.sole_reader(graph, node.outputs[0], "Add")
    if add is None:
        return layer
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    if not isinstance(other, ir.Constant) or tuple(other.shape) != (weight.shape[1],):
        return layer
    if len(other.outputs) != 1 or match.fetched(other):
        return layer
    return replace(layer, bias=other, output=add.outputs[0], biased=True)

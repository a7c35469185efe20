"""Layers that compute y = W x + b with a constant W, seen as matrices.

Conv is read by im2col: a row of x is the patch under one output position, columns in the order of
the weight, input channel major, kernel tap minor. Gemm and MatMul read their rows as they are. A
layer has as many groups as its Conv, each with its own rows and its own matrix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

FLOATS = frozenset("f")
"""Kinds of element types that are fitted; bfloat16 and narrower have no numpy kind of float."""

SPATIAL = {"SAME_UPPER": 0, "SAME_LOWER": 1}
"""Which side of an odd padding is the larger one: the end, or the beginning."""


@dataclass(frozen=True)
class Linear(ABC):
    """A layer of the main graph.

    Attributes:
        node: The Conv, Gemm or MatMul.
        weight: Its weight, an initializer that no other node reads.
        bias: Its bias, None where it has none.
        output: Where y = W x + b is: of a MatMul, behind the Add of its bias.
        biased: Whether it has a bias, or can be given one without another node.
    """

    node: gs.Node
    weight: gs.Constant
    bias: gs.Constant | None
    output: gs.Tensor
    biased: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return ir.label(self.node)

    @property
    def source(self) -> gs.Tensor:
        """What the layer reads."""
        return self.node.inputs[0]

    @property
    def taps(self) -> int:
        """How many columns of the matrix each input channel has."""
        return 1

    @property
    def input_axis(self) -> int:
        """Axis of the weight along which the layer's inputs are."""
        return 1

    @property
    def output_axis(self) -> int:
        """Axis of the weight along which the layer's outputs are."""
        return 1 - self.input_axis

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Shape of the matrix: groups, outputs of a group, inputs of a group."""

    def pick(self, shape: Sequence[int], most: int, seed: Sequence[int]) -> np.ndarray:
        """Return at most so many rows of an input of this shape, drawn evenly, ascending."""
        found = self.positions(shape)
        if found <= most:
            return np.arange(found)
        return np.sort(np.random.default_rng(seed).choice(found, most, replace=False))

    @abstractmethod
    def matrix(self) -> np.ndarray:
        """Return W as float64 of shape (groups, outputs of a group, inputs of a group)."""

    @abstractmethod
    def folded(self, matrix: np.ndarray) -> np.ndarray:
        """Return the weight, float64 and of its own layout, whose matrix is the one given."""

    @abstractmethod
    def positions(self, shape: Sequence[int]) -> int:
        """Return how many rows an input of this shape has."""

    @abstractmethod
    def rows(self, x: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Return rows of what the layer reads.

        Args:
            x: A value of `source`.
            picks: Which rows, each below `positions(x.shape)`.

        Returns:
            float32 of shape (groups, rows, inputs of a group).
        """

    @abstractmethod
    def targets(self, y: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Return the same rows of a value of `output`: float32, (groups, rows, outputs)."""

    @abstractmethod
    def channel_axis(self, rank: int) -> int:
        """Return which axis of an output of that rank has the layer's outputs."""

    def offsets(self) -> np.ndarray:
        """Return b as float64, one an output of the whole layer; zeros where it has none."""
        groups, outputs, _ = self.shape
        if self.bias is None:
            return np.zeros(groups * outputs)
        spread = np.broadcast_to(self.bias.values, (1, groups * outputs))
        return spread.reshape(-1).astype(np.float64) * self._scale_of_bias()

    def _scale_of_bias(self) -> float:
        return 1.0

    def write(self, matrix: np.ndarray, offsets: np.ndarray | None = None) -> None:
        """Give the layer another matrix of the same shape, and another bias.

        Args:
            matrix: As `matrix` returns it.
            offsets: As `offsets` returns it; None leaves the bias as it is.

        Raises:
            ValueError: It has no place for a bias.
        """
        dtype = self.weight.values.dtype
        self.weight.values = np.ascontiguousarray(self.folded(matrix).astype(dtype))
        if offsets is None:
            return
        values = (offsets / self._scale_of_bias()).astype(dtype)
        if self.bias is not None and len(self.bias.outputs) == 1:
            self.bias.values = values
            return
        if not self.biased or match.is_op(self.node, "MatMul"):
            raise ValueError(f"{self.name!r} has no place for a bias of its own")
        fresh = ir.Constant(f"{self.weight.name}_bias", values)
        self.node.inputs = [*self.node.inputs[:2], fresh]


@dataclass(frozen=True)
class ConvLinear(Linear):
    """A Conv with any number of spatial axes.

    Attributes:
        groups: Its attribute `group`.
        strides: One a spatial axis.
        dilations: One a spatial axis.
        pads: Beginnings, then ends; None for the padding `auto`.
        auto: Its `auto_pad`.
    """

    groups: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] | None = None
    auto: str = "NOTSET"

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return tuple(self.weight.shape[2:])

    @property
    def taps(self) -> int:  # noqa: D102
        return math.prod(self.kernel)

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        outputs, channels = self.weight.shape[:2]
        return self.groups, outputs // self.groups, channels * self.taps

    def matrix(self) -> np.ndarray:  # noqa: D102
        w = self.weight.values
        return w.reshape(self.groups, w.shape[0] // self.groups, -1).astype(np.float64)

    def folded(self, matrix: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.asarray(matrix.reshape(self.weight.shape))

    def channel_axis(self, rank: int) -> int:  # noqa: D102
        return 1

    def _padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        if self.pads is not None:
            half = len(self.pads) // 2
            return list(zip(self.pads[:half], self.pads[half:], strict=True))
        if self.auto == "VALID":
            return [(0, 0)] * len(sizes)
        found = []
        for size, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            less = total // 2
            begin = total - less if SPATIAL[self.auto] else less
            found.append((begin, total - begin))
        return found

    def _spread(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial sizes of the output."""
        return tuple(
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, k, s, d in zip(
                sizes, self._padding(sizes), self.kernel, self.strides, self.dilations, strict=True
            )
        )

    def positions(self, shape: Sequence[int]) -> int:  # noqa: D102
        return shape[0] * math.prod(self._spread(shape[2:]))

    def rows(self, x: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        padding = self._padding(x.shape[2:])
        spread = self._spread(x.shape[2:])
        x = _padded(x, padding)
        sizes = x.shape[2:]
        sample, *corner = np.unravel_index(picks, (x.shape[0], *spread))
        start = [c * s for c, s in zip(corner, self.strides, strict=True)]
        taps = np.indices(self.kernel).reshape(len(sizes), -1)
        steps = [t * d for t, d in zip(taps, self.dilations, strict=True)]
        where = np.ravel_multi_index(
            [a[:, None] + b[None, :] for a, b in zip(start, steps, strict=True)], sizes
        )
        flat = x.reshape(x.shape[0], x.shape[1], -1)
        parts = [np.take(flat[n], where[sample == n], axis=1) for n in range(x.shape[0])]
        patches = np.concatenate(parts, axis=1)  # (channels, rows in order of samples, taps)
        order = np.argsort(np.argsort(sample, kind="stable"), kind="stable")
        return self._grouped(patches[:, order] if x.shape[0] > 1 else patches)

    def _grouped(self, patches: np.ndarray) -> np.ndarray:
        """Return (channels, rows, taps) as (groups, rows, channels of a group * taps)."""
        channels, rows, taps = patches.shape
        split = patches.reshape(self.groups, channels // self.groups, rows, taps)
        found = split.transpose(0, 2, 1, 3).reshape(self.groups, rows, -1)
        return np.ascontiguousarray(found, np.float32)

    def targets(self, y: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        sample, place = np.unravel_index(picks, (y.shape[0], math.prod(y.shape[2:])))
        found = y.reshape(y.shape[0], y.shape[1], -1)[sample, :, place]  # (rows, outputs)
        split = found.reshape(len(picks), self.groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(split, np.float32)


def _padded(x: np.ndarray, padding: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return x with zeros around its spatial axes; `np.pad` takes ten times as long."""
    if not any(sum(p) for p in padding):
        return x
    sizes = [size + sum(p) for size, p in zip(x.shape[2:], padding, strict=True)]
    found = np.zeros((*x.shape[:2], *sizes), x.dtype)
    inner = [slice(p[0], p[0] + s) for s, p in zip(x.shape[2:], padding, strict=True)]
    where = (slice(None), slice(None), *inner)
    found[where] = x
    return found


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
    def input_axis(self) -> int:  # noqa: D102
        return 1 if self.transposed else 0

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        first, second = self.weight.shape
        return (1, first, second) if self.transposed else (1, second, first)

    def matrix(self) -> np.ndarray:  # noqa: D102
        w = self.weight.values if self.transposed else self.weight.values.T
        return np.asarray(self.alpha * w.astype(np.float64)[None])

    def folded(self, matrix: np.ndarray) -> np.ndarray:  # noqa: D102
        w: np.ndarray = matrix[0] / self.alpha
        return w if self.transposed else w.T

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

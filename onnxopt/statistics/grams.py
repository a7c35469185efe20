"""First and second moments of what layers read and compute, summed up in float64.

Of rows x (what a layer reads) and y (what it should compute): n, sum x, sum y, sum x x^T,
sum y x^T, sum y^2. Rows are collected in a block, onnxruntime multiplies a full one in float32,
and the products of blocks are added in float64. Rows are shifted by the mean of the first block
before they are multiplied, so that nothing is lost where the mean is large against the spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxopt.model import Exported
from onnxopt.runtime import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 1 << 18
"""Elements of a block of rows: small, as every layer that is read has one."""

LEAST_ROWS = 64
"""Rows of a block, at least: the product of fewer is not worth the addition of its result."""


@dataclass(frozen=True)
class Statistics:
    """Moments of rows; of layers with groups, one set a group along the first axis.

    Attributes:
        count: How many rows there were.
        x: Mean of x, (groups, inputs).
        y: Mean of y, (groups, outputs).
        xx: Covariance of x, (groups, inputs, inputs).
        yx: Covariance of y and x, (groups, outputs, inputs).
        yy: Variance of each y, (groups, outputs).
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    yx: np.ndarray
    yy: np.ndarray

    def raw(self) -> Statistics:
        """Return the same about zero, for layers that have no bias: `error` then takes b = 0."""
        return Statistics(
            self.count,
            np.zeros_like(self.x),
            np.zeros_like(self.y),
            self.xx + self.x[:, :, None] * self.x[:, None, :],
            self.yx + self.y[:, :, None] * self.x[:, None, :],
            self.yy + self.y**2,
        )

    def of_group(self, group: int) -> Statistics:
        """Return the moments of one group, as a set of one."""
        one = slice(group, group + 1)
        parts = (self.x, self.y, self.xx, self.yx, self.yy)
        return Statistics(self.count, *(part[one] for part in parts))

    def error(self, matrix: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the mean of (y - W x - b)^2 for each output, (groups, outputs).

        Args:
            matrix: W, (groups, outputs, inputs).
            offsets: b, (groups, outputs).
        """
        product = matrix @ self.xx
        spread = self.yy - 2 * (matrix * self.yx).sum(-1) + (product * matrix).sum(-1)
        bias = self.y - np.einsum("goi,gi->go", matrix, self.x) - offsets
        return np.asarray(np.maximum(spread, 0) + bias**2)


class Moments:
    """Sums over rows; memory does not grow with their number.

    Args:
        groups: How many sets of rows there are.
        inputs: Length of a row of x.
        outputs: Length of a row of y, 0 where only x matters.
        threads: Threads of onnxruntime.
    """

    def __init__(self, groups: int, inputs: int, outputs: int = 0, threads: int = 1) -> None:
        self._inputs, self._threads = inputs, threads
        width = inputs + outputs
        self._shift: np.ndarray | None = None
        self._total = np.zeros((groups, width))
        self._products = np.zeros((groups, inputs, width))
        self._squares = np.zeros((groups, outputs))
        self._count = 0
        self._finite = True
        self._block = np.empty((groups, _rows(groups, width), width), np.float32)
        self._rows = 0

    @staticmethod
    def size(groups: int, inputs: int, outputs: int = 0) -> int:
        """Return the bytes that it holds."""
        width = inputs + outputs
        return groups * width * (8 * inputs + 4 * _rows(groups, width))

    def add(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """Add rows: x (groups, rows, inputs), y (groups, rows, outputs), float32."""
        start = 0
        while start < x.shape[1]:
            stop = min(start + self._block.shape[1] - self._rows, x.shape[1])
            part = self._block[:, self._rows : self._rows + stop - start]
            part[:, :, : self._inputs] = x[:, start:stop]
            if y is not None:
                part[:, :, self._inputs :] = y[:, start:stop]
            self._rows += stop - start
            start = stop
            if self._rows == self._block.shape[1]:
                self._flush()

    def _flush(self) -> None:
        block = self._block[:, : self._rows]
        self._rows = 0
        if not block.size:
            return
        if not np.isfinite(block).all():
            self._finite = False
            return
        if self._shift is None:
            self._shift = block.mean(axis=1, dtype=np.float64).astype(np.float32)
        block -= self._shift[:, None, :]
        self._count += block.shape[1]
        self._total += block.sum(axis=1, dtype=np.float64)
        self._squares += np.square(block[:, :, self._inputs :], dtype=np.float64).sum(axis=1)
        self._products += product(block[:, :, : self._inputs], block, self._threads)

    def statistics(self) -> Statistics:
        """Return the moments of all rows; the sums turn into them, so this ends it.

        Raises:
            ValueError: There were none, or some were not finite.
        """
        self._flush()
        if not self._finite:
            raise ValueError("values that are not finite")
        if self._shift is None:
            raise ValueError("no rows")
        n, k = self._count, self._inputs
        mean = self._total / n
        products, self._products = self._products, np.empty((0, 0, 0))
        products /= n
        add_outer(products, -mean[:, :k], mean)
        shift = self._shift.astype(np.float64)
        return Statistics(
            n,
            mean[:, :k] + shift[:, :k],
            mean[:, k:] + shift[:, k:],
            products[:, :, :k],
            products[:, :, k:].transpose(0, 2, 1),
            np.maximum(self._squares / n - mean[:, k:] ** 2, 0),
        )


def _rows(groups: int, width: int) -> int:
    """Return the number of rows of a block."""
    return max(BLOCK // (groups * width), LEAST_ROWS)


def add_outer(matrices: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Add the products of two vectors to matrices in place, with little memory besides.

    Args:
        matrices: (groups, m, n).
        left: (groups, m).
        right: (groups, n).
    """
    for matrix, a, b in zip(matrices, left, right, strict=True):
        for i in range(0, len(a), LEAST_ROWS):
            matrix[i : i + LEAST_ROWS] += np.outer(a[i : i + LEAST_ROWS], b)


def merged(parts: Sequence[Statistics]) -> Statistics:
    """Return the moments of several sets of rows together."""
    total = sum(p.count for p in parts)
    share = [p.count / total for p in parts]

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(sum(s * v for s, v in zip(share, values, strict=True)))

    x, y = mean([p.x for p in parts]), mean([p.y for p in parts])
    raw = [p.raw() for p in parts]
    return Statistics(
        total,
        x,
        y,
        mean([p.xx for p in raw]) - x[:, :, None] * x[:, None, :],
        mean([p.yx for p in raw]) - y[:, :, None] * x[:, None, :],
        np.maximum(mean([p.yy for p in raw]) - y**2, 0),
    )


def product(a: np.ndarray, b: np.ndarray, threads: int = 1) -> np.ndarray:
    """Return A^T B of each group, multiplied by onnxruntime.

    Args:
        a: float32, (groups, rows, m).
        b: float32, (groups, rows, n).
        threads: Threads of onnxruntime.

    Returns:
        float32, (groups, m, n).
    """
    feed = {"a": np.ascontiguousarray(a), "b": np.ascontiguousarray(b)}
    return np.asarray(_multiplier(threads).run(feed)["c"])


@cache
def _multiplier(threads: int) -> Session:
    """Return a session for c = a^T b; made on first use, by every process for itself."""
    shape = ["g", "r", "m"]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["t", "b"], ["c"]),
        ],
        "products",
        [
            helper.make_tensor_value_info("a", kind, shape),
            helper.make_tensor_value_info("b", kind, ["g", "r", "n"]),
        ],
        [helper.make_tensor_value_info("c", kind, ["g", "m", "n"])],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return Session(Exported(model, {}), Settings(optimize=True, threads=threads, lean=True))

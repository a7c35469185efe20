"""The matrices of recurrent nodes as linear layers: what they read.

    gates = W x_t + R h_(t-1) + b        W (directions, gates * hidden, inputs), R (.., .., hidden)

x is the node's input, and h is taken from its output Y, whose rows are those that R reads but for
the first and the last. Biases are left as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics.layer import Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class GateLinear(Linear):
    """W or R of an LSTM, GRU or RNN; a group is a direction.

    Attributes:
        hidden: Whether it is R.
    """

    hidden: bool = False

    @property
    def source(self) -> gs.Tensor:  # noqa: D102
        return self.node.outputs[0] if self.hidden else self.node.inputs[0]

    @property
    def patches(self) -> tuple[object, ...]:  # noqa: D102
        return (*super().patches, self.hidden)

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        directions, outputs, inputs = self.weight.shape
        return directions, outputs, inputs

    def arranged(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        return values

    def restored(self, matrix: np.ndarray) -> np.ndarray:  # noqa: D102
        return matrix

    def positions(self, shape: Sequence[int]) -> int:  # noqa: D102
        return math.prod(shape[:-1]) // (self.shape[0] if self.hidden else 1)

    def rows(self, x: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        directions, _, inputs = self.shape
        if self.hidden:  # (steps, directions, batch, hidden), or (batch, steps, directions, hidden)
            axis = 2 if match.attribute(self.node, "layout", 0) else 1
            split = np.moveaxis(x, axis, 0).reshape(directions, -1, inputs)
        else:
            split = np.broadcast_to(
                x.reshape(1, -1, inputs), (directions, x.size // inputs, inputs)
            )
        return np.ascontiguousarray(split[:, picks], np.float32)

    def targets(self, y: np.ndarray, picks: np.ndarray) -> np.ndarray:  # noqa: D102
        raise NotImplementedError("gates are inside the node")

    def channel_axis(self, rank: int) -> int:  # noqa: D102
        return rank - 1


def find_all(graph: gs.Graph) -> list[GateLinear]:
    """Return the matrices of recurrent nodes whose inputs can be read; `match.stamp` first."""
    found: list[GateLinear] = []
    for node in graph.nodes:
        if not match.is_op(node, *match.RECURRENT) or len(node.inputs) < 3:
            continue
        for index, hidden in ((1, False), (2, True)):
            weight = node.inputs[index]
            if not isinstance(weight, ir.Constant) or len(weight.outputs) != 1:
                continue
            readable = bool(node.outputs and node.outputs[0].name) if hidden else True
            if readable and weight.values.dtype == np.float32:
                output = node.outputs[0]
                found.append(GateLinear(node, weight, None, output, biased=False, hidden=hidden))
    return found

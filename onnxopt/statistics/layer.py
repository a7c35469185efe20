"""A layer that computes y = W x + b with a constant W, seen as a matrix for each of its groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.runtime import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs


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
    def factor(self) -> float:
        """What W is times the weight."""
        return 1.0

    @property
    def taps(self) -> int:
        """How many columns of the matrix each input channel has."""
        return 1

    @property
    def patches(self) -> tuple[object, ...]:
        """What rows depend on beside the input: layers where it is equal read the same rows."""
        return (type(self), self.shape[0], self.shape[2])

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

    def matrix(self) -> np.ndarray:
        """Return W as float64 of shape (groups, outputs of a group, inputs of a group)."""
        return self.factor * self.arranged(self.weight.values.astype(np.float64))

    def folded(self, matrix: np.ndarray) -> np.ndarray:
        """Return the weight, float64 and of its own layout, whose matrix is the one given."""
        return self.restored(matrix / self.factor)

    @abstractmethod
    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Return an array of the weight's shape as (groups, outputs, inputs)."""

    @abstractmethod
    def restored(self, matrix: np.ndarray) -> np.ndarray:
        """Return what `arranged` was given."""

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
        self.weight.values = aligned(self.folded(matrix).astype(dtype))
        if offsets is not None:
            self.write_bias(offsets)

    def write_bias(self, offsets: np.ndarray) -> None:
        """Give the layer another bias, as `offsets` returns it.

        Raises:
            ValueError: It has no place for a bias.
        """
        values = (offsets / self._scale_of_bias()).astype(self.weight.values.dtype)
        if self.bias is not None and len(self.bias.outputs) == 1:
            self.bias.values = values
            return
        if not self.biased or match.is_op(self.node, "MatMul"):
            raise ValueError(f"{self.name!r} has no place for a bias of its own")
        fresh = ir.Constant(f"{self.weight.name}_bias", values)
        self.node.inputs = [*self.node.inputs[:2], fresh]

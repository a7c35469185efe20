"""What the layers of the uncut model read, and how much their errors count.

One pass over the samples sums up the moments of what every layer reads, and the power of the tensor
that its output enters: where it is added to a shortcut, the sum. Layers with kernels too wide for a
matrix of all taps share one matrix of their channels among the taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import match
from onnxopt.runtime import Settings
from onnxopt.statistics import Stages
from onnxopt.statistics.grams import Moments, merged
from onnxopt.statistics.stacks import stacked, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.statistics.grams import Statistics
    from onnxopt.statistics.layer import Linear
    from onnxopt.statistics.stacks import Stack

LARGEST = 2304
"""Columns beyond which the taps of a kernel share one matrix (C x C)."""

ROWS = 32
"""Rows of a layer that are read of one sample, at least."""

ENOUGH = 8
"""Rows that are wanted in all, for each input of a layer."""

HELD = 4
"""One sample in so many is held out of fits, to choose the strength of a ridge on."""

ELEMENTS = 1 << 25
"""Elements of all matrices that are summed up in one pass; more layers take more passes."""


@dataclass(frozen=True)
class Read:
    """What one layer reads.

    Attributes:
        layer: The layer.
        fitted: Moments of its rows, or of its channels where `shared`, on samples to fit on.
        held: The same on samples held out of the fit.
        shared: Whether the taps of its kernel share one matrix of the channels.
        power: Variance of the tensor that its output enters, summed over the channels.
        positions: Rows that it has in one sample, on average: what each weight is multiplied with.
        shape: Of what it reads of one sample, of the first one.
    """

    layer: Linear
    fitted: Statistics
    held: Statistics
    shared: bool
    power: float
    positions: float
    shape: tuple[int, ...]

    @property
    def moments(self) -> Statistics:
        """Moments on all samples."""
        return merged([self.fitted, self.held])

    def matrix(self) -> np.ndarray:
        """Return W, (groups, outputs, columns of the moments); taps as outputs where `shared`."""
        return by_channel(self.layer) if self.shared else self.layer.matrix()


def rows_a_sample(layer: Linear, count: int) -> int:
    """Return how many rows of a layer to read of each of so many samples."""
    return max(ROWS, -(-ENOUGH * layer.shape[2] // max(count, 1)))


def held(sample: int) -> bool:
    """Whether a sample is held out of fits."""
    return sample % HELD == HELD - 1


def by_channel(layer: Linear) -> np.ndarray:
    """Return W as (groups, outputs * taps, channels)."""
    groups, outputs, inputs = layer.shape
    split = layer.matrix().reshape(groups, outputs, inputs // layer.taps, layer.taps)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2)).reshape(
        groups, outputs * layer.taps, inputs // layer.taps
    )


def from_channel(layer: Linear, matrix: np.ndarray) -> np.ndarray:
    """Return what `by_channel` was made of."""
    groups, outputs, inputs = layer.shape
    split = matrix.reshape(groups, outputs, layer.taps, -1)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2)).reshape(groups, outputs, inputs)


def entered(layer: Linear) -> gs.Tensor:
    """Return the tensor that an error of the layer enters: a sum with a shortcut, or its output."""
    reader = match.sole_reader(layer.node.owner, layer.output, "Add", "Sum")  # type: ignore[attr-defined]
    if reader is None or len(reader.inputs) != 2:
        return layer.output
    other = next((t for t in reader.inputs if t is not layer.output), None)
    return layer.output if other is None or match.constant(other) is not None else reader.outputs[0]


def collect(
    model: Model,
    layers: Sequence[Linear],
    feeds: Callable[[], Iterable[Mapping[str, Any]]],
    count: int,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, Read]:
    """Return what layers of a model read, by their names.

    A layer that reads values that are not finite has no entry.

    Args:
        model: The uncut model.
        layers: Its layers.
        feeds: Starts a pass over the inputs of all samples.
        count: How many samples there are.
        seed: Draws the rows.
        settings: How the model is loaded.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    settings = settings or Settings(optimize=True)
    found: dict[str, Read] = {}
    match.stamp(model.graph)
    for part in _parts(layers):
        sums = [_Sums(layer, count, settings.threads) for layer in part]
        wanted = [t for one in sums for t in (one.layer.source, one.tensor)]
        most = together(model, [wanted], feeds(), settings)
        inputs = (stack.feed for stack in stacked(feeds(), most, held))
        runs = Stages(model, [wanted], inputs, settings).run()
        for n, (stack, values) in enumerate(zip(stacked(feeds(), most, held), runs, strict=True)):
            for i, one in enumerate(sums):
                one.add(stack, values[2 * i], values[2 * i + 1], (seed, i, n))
        for one in sums:
            read = one.read()
            if read is not None:
                found[one.layer.name] = read
    return found


def _parts(layers: Sequence[Linear]) -> list[list[Linear]]:
    """Return the layers in parts whose matrices fit into memory together."""
    parts: list[list[Linear]] = []
    room = 0
    for layer in layers:
        groups, _, inputs = layer.shape
        width = inputs // layer.taps if inputs > LARGEST else inputs
        size = groups * width * width
        if not parts or size > room:
            parts.append([])
            room = ELEMENTS
        parts[-1].append(layer)
        room -= size
    return parts


class _Sums:
    """Sums of one layer."""

    def __init__(self, layer: Linear, count: int, threads: int) -> None:
        self.layer, self.tensor = layer, entered(layer)
        groups, _, inputs = layer.shape
        self._shared = inputs > LARGEST and layer.taps > 1
        width = inputs // layer.taps if self._shared else inputs
        self._parts = [Moments(groups, width, threads=threads) for _ in range(2)]
        self._most = rows_a_sample(layer, count)
        self._power: np.ndarray | float = 0.0
        self._positions = self._samples = 0
        self._shape: tuple[int, ...] = ()

    def add(self, stack: Stack, x: np.ndarray, y: np.ndarray, seed: Sequence[int]) -> None:
        """Add rows of some samples.

        Args:
            stack: The samples.
            x: What the layer reads.
            y: The tensor that its error enters.
            seed: Draws the rows.
        """
        self._positions += self.layer.positions(x.shape)
        self._samples += stack.count
        self._shape = self._shape or (x.shape[0] // stack.count, *x.shape[1:])
        picks = self.layer.pick(x.shape, self._most * stack.count, seed)
        rows = self.layer.rows(x, picks)
        if self._shared:
            groups, count, _ = rows.shape
            split = rows.reshape(groups, count, -1, self.layer.taps)
            rows = np.ascontiguousarray(split.transpose(0, 1, 3, 2)).reshape(
                groups, count * self.layer.taps, -1
            )
        self._parts[stack.held].add(rows)
        wide = self.layer.targets(y, picks).astype(np.float64)  # (groups, rows, outputs)
        count = np.full((len(wide), wide.shape[2]), wide.shape[1])
        self._power = self._power + np.stack([count, wide.sum(1), (wide**2).sum(1)])

    def read(self) -> Read | None:
        """Return what was found, None where values were not finite."""
        try:
            fitted, held_out = (part.statistics() for part in self._parts)
        except ValueError:
            return None
        count, total, squares = np.asarray(self._power)
        power = float(np.sum(squares / count - (total / count) ** 2))
        if not np.isfinite(power):
            return None
        each = self._positions / self._samples
        return Read(self.layer, fitted, held_out, self._shared, power, each, self._shape)

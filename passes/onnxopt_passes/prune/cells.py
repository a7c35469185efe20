"""LSTM, GRU and RNN as readers: of the rows that come in, and of their own states.

Their matrices are linear layers (`statistics.recurrent`). They are ranked by OBS and absorb a cut
like all others, but are not fitted anew: no tensor has what they should compute. A GRU's own gate
reads its state times another gate, and is treated as if it read the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics import Tap, recurrent
from onnxopt.statistics.grams import Moments
from onnxopt_passes.prune.least_squares import absorb
from onnxopt_passes.prune.obs import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Feed
    from onnxopt.statistics.grams import Statistics
    from onnxopt.statistics.recurrent import GateLinear
    from onnxopt_passes.prune.groups import Member

BIASES = 3
"""Which input of a node has its biases."""

INPUT_AXIS = 2
"""The axis of a matrix's weight that is contracted."""

ROWS = 256
"""Rows of one sample that are read, at most."""

RIDGE = 1e-3
"""Multiple of the mean variance that is added to the diagonal when a cut is absorbed."""


@dataclass(frozen=True)
class Cell:
    """What one matrix of a cell reads.

    Attributes:
        layer: The matrix, of the uncut model; a group is a direction.
        moments: Of its rows.
    """

    layer: GateLinear
    moments: Statistics

    def readers(self, member: Member) -> list[Reader]:
        """Return it as OBS sees it, one reader a direction."""
        channels = np.arange(len(member.columns))
        found = []
        for matrix, second in zip(self.layer.matrix(), self.moments.raw().xx, strict=True):
            power = float(np.sum((matrix @ second) * matrix))
            found.append(Reader(matrix, second, channels, member.columns, power))
        return found


def collect(
    model: Model, feeds: Iterable[Feed], settings: Settings, seed: int = 0
) -> dict[str, Cell]:
    """Return what cells of the main graph read, by the names of their weights.

    A matrix that reads values that are not finite has no entry.

    Args:
        model: The uncut model.
        feeds: Inputs of the samples.
        settings: How the model is loaded.
        seed: Draws the rows.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    match.stamp(model.graph)
    layers = [x for x in recurrent.find_all(model.graph) if match.constant(x.source) is None]
    if not layers:
        return {}
    sums = [Moments(x.shape[0], x.shape[2], threads=settings.threads) for x in layers]
    tap = Tap(model, [x.source for x in layers], settings)
    for sample, values in enumerate(map(tap, feeds)):
        for i, (layer, part, value) in enumerate(zip(layers, sums, values, strict=True)):
            picks = layer.pick(value.shape, ROWS, (seed, i, sample))
            part.add(layer.rows(value, picks))
    found = {}
    for layer, part in zip(layers, sums, strict=True):
        try:
            found[layer.weight.name] = Cell(layer, part.statistics())
        except ValueError:  # nothing to rank by: groups that only it reads stay whole
            continue
    return found


def absorbed(
    graph: gs.Graph, cells: Mapping[str, Cell], dropped: Mapping[tuple[str, int], np.ndarray]
) -> None:
    """Let cells make up for inputs and states that they will lose; their columns become zero.

    Args:
        graph: Of the model that is cut.
        cells: What its cells read, by the names of their weights.
        dropped: By weight and axis, True for the positions that go.
    """
    for layer in recurrent.find_all(graph) if cells else ():
        gone = dropped.get((layer.weight.name, INPUT_AXIS))
        cell = cells.get(layer.weight.name)
        if gone is not None and gone.any() and cell is not None:
            _absorb(layer, cell.moments, np.flatnonzero(~gone))


def _absorb(layer: GateLinear, moments: Statistics, kept: np.ndarray) -> None:
    bias = _bias(layer)
    matrix, made = layer.matrix(), np.zeros(layer.shape)
    for d, offsets in enumerate(np.zeros(layer.shape[:2])):
        part = moments.of_group(d)
        made[d][:, kept], moved = absorb(matrix[d], offsets, part, kept, bias is not None, RIDGE)
        if bias is not None:
            values = np.array(bias.values)
            values[d, : len(moved)] += moved.astype(values.dtype)
            bias.values = values
    layer.write(made)


def _bias(layer: GateLinear) -> gs.Constant | None:
    """Return the biases of what comes in, if they are the node's own; states have none here."""
    if layer.hidden or not match.given(layer.node, BIASES):
        return None
    tensor = layer.node.inputs[BIASES]
    return tensor if isinstance(tensor, ir.Constant) and len(tensor.outputs) == 1 else None

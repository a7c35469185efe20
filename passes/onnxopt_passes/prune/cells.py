"""LSTM, GRU and RNN as readers: of the rows that come in, and of their own states.

All gates of all directions read the same rows x, W x; each direction reads its own state h of the
step before, R h. Seen like this both are linear layers that contract an axis. They are ranked by
OBS and absorb a cut like all others, but are not fitted anew: no tensor has what they should
compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics import Tap
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
    from onnxopt_passes.prune.groups import Member

CELLS = ("LSTM", "GRU", "RNN")

INPUTS, STATES, BIASES = 1, 2, 3
"""Which inputs of a node W, R and B are."""

INPUT_AXIS = 2
"""The axis of W and R that is contracted."""


RIDGE = 1e-3
"""Multiple of the mean variance that is added to the diagonal when a cut is absorbed."""


@dataclass(frozen=True)
class Cell:
    """What one weight of a cell reads.

    Attributes:
        weight: W or R, float (directions, gates * hidden, inputs).
        slot: Which input of the node it is.
        moments: Of the rows of each direction; the same for all of W.
    """

    weight: np.ndarray
    slot: int
    moments: tuple[Statistics, ...]

    def readers(self, member: Member) -> list[Reader]:
        """Return it as OBS sees it, one reader a direction."""
        channels = np.arange(len(member.columns))
        found = []
        for matrix, part in zip(self.weight, self.moments, strict=True):
            second = part.raw().xx[0]
            power = float(np.einsum("oi,ij,oj->", matrix, second, matrix))
            found.append(Reader(matrix, second, channels, member.columns, power))
        return found


def collect(model: Model, feeds: Iterable[Feed], settings: Settings) -> dict[str, Cell]:
    """Return what cells of the main graph read, by the names of their weights.

    Args:
        model: The uncut model.
        feeds: Inputs of the samples.
        settings: How the model is loaded.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    wanted = [
        (node, slot, tensor)
        for node in model.graph.nodes
        if match.is_op(node, *CELLS)
        for slot, tensor in ((INPUTS, node.inputs[0]), (STATES, node.outputs[0]))
        if tensor.name and _weight(node, slot) is not None
    ]
    if not wanted:
        return {}
    sums = [_sums(node, slot) for node, slot, _ in wanted]
    tap = Tap(model, [tensor for _, _, tensor in wanted], settings)
    for values in map(tap, feeds):
        for (node, slot, _), parts, value in zip(wanted, sums, values, strict=True):
            for part, rows in zip(parts, _rows(node, slot, value), strict=True):
                part.add(np.ascontiguousarray(rows[None], np.float32))
    found = {}
    for (node, slot, _), parts in zip(wanted, sums, strict=True):
        weight = _weight(node, slot)
        moments = [part.statistics() for part in parts]
        if weight is not None:
            same = moments * (len(weight) // len(moments))
            found[node.inputs[slot].name] = Cell(weight, slot, tuple(same))
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
    for node in graph.nodes:
        for slot in (INPUTS, STATES) if match.is_op(node, *CELLS) else ():
            name = node.inputs[slot].name
            gone = dropped.get((name, INPUT_AXIS))
            if gone is not None and gone.any() and name in cells:
                _absorb(node, cells[name], np.flatnonzero(~gone))


def _absorb(node: gs.Node, cell: Cell, kept: np.ndarray) -> None:
    biased = cell.slot == INPUTS and _own_bias(node)
    made = np.zeros_like(cell.weight)
    for d, (matrix, part) in enumerate(zip(cell.weight, cell.moments, strict=True)):
        offsets = np.zeros(len(matrix))
        made[d][:, kept], moved = absorb(matrix, offsets, part, kept, biased, RIDGE)
        if biased:
            biases = np.array(node.inputs[BIASES].values)  # type: ignore[attr-defined]
            biases[d, : len(moved)] += moved.astype(biases.dtype)
            node.inputs[BIASES].values = biases  # type: ignore[attr-defined]
    node.inputs[cell.slot].values = made  # type: ignore[attr-defined]


def _own_bias(node: gs.Node) -> bool:
    """Whether a node has a bias that no other node reads."""
    return match.given(node, BIASES) and _own(node.inputs[BIASES]) is not None


def _weight(node: gs.Node, slot: int) -> np.ndarray | None:
    """Return W or R; None where it is no float weight of this node alone."""
    return _own(node.inputs[slot])


def _own(tensor: gs.Tensor) -> np.ndarray | None:
    if not isinstance(tensor, ir.Constant) or len(tensor.outputs) != 1 or match.fetched(tensor):
        return None
    return tensor.values if tensor.values.dtype.kind == "f" else None


def _sums(node: gs.Node, slot: int) -> list[Moments]:
    """Return empty sums: one for all that come in, or one a direction for states."""
    directions, _, width = node.inputs[slot].values.shape  # type: ignore[attr-defined]
    return [Moments(1, width) for _ in range(1 if slot == INPUTS else directions)]


def _rows(node: gs.Node, slot: int, value: np.ndarray) -> list[np.ndarray]:
    """Return what one weight reads, (rows, width) each."""
    if slot == INPUTS:
        return [value.reshape(-1, value.shape[-1])]
    axis = 2 if node.attrs.get("layout", 0) else 1
    moved = np.moveaxis(value, axis, 0)
    return [part.reshape(-1, part.shape[-1]) for part in moved]

"""Groups seen from the layers that read them: rankings, and weights that make up for a cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt.model import ir
from onnxopt_passes.prune.collect import from_channel
from onnxopt_passes.prune.least_squares import absorb, best_ridge
from onnxopt_passes.prune.obs import Ranking, Reader, rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.statistics.grams import Statistics
    from onnxopt_passes.prune.cells import Cell
    from onnxopt_passes.prune.collect import Read
    from onnxopt_passes.prune.groups import Group, Member


def ranking(
    group: Group,
    reads: Mapping[str, Read],
    least: int = 1,
    cells: Mapping[str, Cell] | None = None,
) -> Ranking | None:
    """Return the order in which a group's indices go, by OBS over all its consumers.

    Args:
        group: The group.
        reads: What the layers of the uncut model read, by name.
        least: The smallest width that is of interest.
        cells: What recurrent cells read, by the names of their weights.

    Returns:
        None where no consumer is a layer with moments.
    """
    readers = [r for member in group.consumers for r in readers_of(member, reads)]
    found = [(cells or {}).get(member.constant.name) for member in group.consumers]
    for member, cell in zip(group.consumers, found, strict=True):
        readers += [] if cell is None else cell.readers(member)
    return rank(readers, group.size, least=least) if readers else None


def readers_of(member: Member, reads: Mapping[str, Read]) -> list[Reader]:
    """Return a consumer as OBS sees it: one reader for each group of its Conv."""
    read = read_of(member, reads)
    if read is None:
        return []
    columns = columns_of(member, read)
    moments = read.moments if read.layer.biased else read.moments.raw()
    channels = np.arange(len(columns))
    return [
        Reader(matrix, second, channels, columns, read.power)
        for matrix, second in zip(read.matrix(), moments.xx, strict=True)
    ]


def columns_of(member: Member, read: Read) -> np.ndarray:
    """Return, for each index, its columns in the moments of a layer, shape (n, k)."""
    taps = 1 if read.shared else read.layer.taps
    places = member.columns[:, :, None] * taps + np.arange(taps)
    return np.asarray(places.reshape(len(member.columns), -1))


def read_of(member: Member, reads: Mapping[str, Read]) -> Read | None:
    """Return the layer whose input axis a consumer is, None if it is no such layer."""
    read = reads.get(ir.label(member.node))
    if read is None or member.axis != read.layer.input_axis:
        return None
    return read if read.layer.weight.name == member.constant.name else None


def absorb_cut(read: Read, dropped: np.ndarray) -> None:
    """Let a layer make up for inputs that it will lose; their columns become zero.

    The strength of the ridge is chosen by the error on the samples held out.

    Args:
        read: The layer, of the model that is cut, and the moments of the uncut one.
        dropped: (channels of a group,) True for the positions along its input axis that go.
    """
    layer, taps = read.layer, 1 if read.shared else read.layer.taps
    kept = np.flatnonzero(np.repeat(~dropped, taps))
    matrix = read.matrix()
    ridge, _ = best_ridge(lambda r: _lost(read, matrix, *_absorbed(read, read.fitted, kept, r)))
    found, moved = _absorbed(read, read.moments, kept, ridge)
    whole = from_channel(layer, found) if read.shared else found
    offsets = layer.offsets()
    offsets += moved.reshape(len(offsets), -1).sum(1)  # of all taps, where they are rows
    layer.write(whole, offsets if layer.biased else None)


def _absorbed(
    read: Read, moments: Statistics, kept: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix with other columns zero, and what its outputs are shifted by."""
    matrix = read.matrix()
    found, moved = np.zeros_like(matrix), np.zeros(matrix.shape[:2])
    for g in range(len(matrix)):
        part = moments.of_group(g)
        found[g][:, kept], moved[g] = absorb(
            matrix[g], moved[g], part, kept, read.layer.biased, ridge
        )
    return found, moved


def _lost(read: Read, matrix: np.ndarray, found: np.ndarray, moved: np.ndarray) -> float:
    """Return the squared error on the samples held out."""
    change = matrix - found
    if not read.layer.biased:
        return float(((change @ read.held.raw().xx) * change).sum())
    mean = np.einsum("goi,gi->go", change, read.held.x) - moved
    return float(((change @ read.held.xx) * change).sum() + (mean**2).sum())

"""Ragged choice: in each block other indices go, as many in all.

Each block is ranked by itself, by OBS over what reads it, others left as they are. Its indices are
put in the order in which they would go, the last to go first: index i of the group then is the
one that matters i-th most in every block. A permutation of each block changes nothing by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.consumers import readers_of
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.obs import Reader, rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt_passes.prune.blocks import Blocks, Place
    from onnxopt_passes.prune.collect import Read


def orders(blocks: Blocks, reads: Mapping[str, Read]) -> np.ndarray | None:
    """Return the indices of each block, the one that matters most first.

    Args:
        blocks: The group.
        reads: What the layers of the model read, by name.

    Returns:
        int64 (blocks, n); None where no layer with moments reads the group.
    """
    readers = [p for p in blocks.places if p.member.role is Role.CONSUMER]
    found = []
    for block in range(blocks.count):
        seen = [r for place in readers for r in _readers(place, block, reads)]
        if not seen:
            return None
        found.append(rank(seen, blocks.group.size).order[::-1])
    return np.stack(found)


def permute(blocks: Blocks, order: np.ndarray) -> None:
    """Put the indices of each block in another order, in all weights.

    Args:
        blocks: The group.
        order: int64 (blocks, n), as from `orders`.
    """
    for place in blocks.places:
        place.recast(lambda block, _, slices: slices[order[block]])


def _readers(place: Place, block: int, reads: Mapping[str, Read]) -> list[Reader]:
    """Return a consumer of one block: what it reads of the others is left as it is."""
    if place.across is not None:
        found = readers_of(place.member, reads)
        return found[block : block + 1] if len(found) == len(place.columns) else []
    member = replace(place.member, columns=place.columns[block])
    return [_own(reader) for reader in readers_of(member, reads)]


def _own(reader: Reader) -> Reader:
    columns = reader.columns.reshape(-1)
    own = np.arange(len(columns)).reshape(reader.columns.shape)
    second = reader.second[np.ix_(columns, columns)]
    return replace(reader, matrix=reader.matrix[:, columns], second=second, columns=own)

"""Heads recast so that the width within them is sorted by what it is good for.

Queries and keys of a head meet only in their products q k^T, and a head's values only in v W: any
invertible matrix may be put between them. With second moments S_q, S_k over samples (keys about
their mean over a sequence, which Softmax does not see) and S_q^1/2 S_k^1/2 = U D V^T,

    q <- q S_q^-1/2 U D^1/2,     k <- k S_k^-1/2 V D^1/2

leaves all products as they are, and the first w columns are the w that keep most of their variance
(activation-aware SVD: Yuan et al. 2023, "ASVD"). What is lost without the others is the sum of
their D^2. Values likewise, with S_v^1/2 W = U D V^T and v <- v S_v^-1/2 U.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.consumers import read_of
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.obs import Ranking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt_passes.prune.blocks import Blocks, Place
    from onnxopt_passes.prune.collect import Read

FLOOR = 1e-4
"""Least eigenvalue of a matrix of moments, as a share of the largest."""

TINY = 1e-30
"""Smallest variance, to divide by."""


@dataclass(frozen=True)
class Basis:
    """Matrices for each block of a group.

    Attributes:
        makers: A, (blocks, n, n): what makes the indices has them times A.
        readers: The other side, (blocks, n, n), with A readers^T = 1: the keys' makers, or what
            reads the values.
        lost: (n + 1,) what goes with the last so many indices, as a share: of the products, or of
            the variance of the tensors that a layer's errors enter.
    """

    makers: np.ndarray
    readers: np.ndarray
    lost: np.ndarray


def values(blocks: Blocks, reads: Mapping[str, Read]) -> Basis | None:
    """Return the basis of the values of heads; None where more than one layer reads them.

    Args:
        blocks: The group.
        reads: What the layers of the model read, by name.
    """
    readers = [p for p in blocks.places if p.member.role is Role.CONSUMER]
    read = read_of(readers[0].member, reads) if len(readers) == 1 else None
    if read is None or read.shared or read.layer.taps > 1 or read.layer.shape[0] > 1:
        return None
    matrix = read.matrix()[0]
    second = (read.moments if read.layer.biased else read.moments.raw()).xx[0]
    made, lost = [], np.zeros(blocks.group.size + 1)
    for columns in readers[0].columns:
        weight = np.concatenate([matrix[:, c] for c in columns.T])
        moments = np.sum([second[np.ix_(c, c)] for c in columns.T], axis=0)
        root, inverse = _roots(moments)
        left, sizes, _ = np.linalg.svd(root @ weight.T)
        size = np.sqrt(np.trace(moments) / len(moments))
        made.append((inverse @ left * size, root @ left / size))
        lost[1:] += _tails(sizes, blocks.group.size)
    makers, others = zip(*made, strict=True)
    return Basis(np.stack(makers), np.stack(others), lost / max(read.power, TINY))


def products(queries: np.ndarray, keys: np.ndarray) -> Basis:
    """Return the basis of queries and keys.

    Args:
        queries: S_q, (blocks, n, n).
        keys: S_k, (blocks, n, n).
    """
    made, lost = [], np.zeros(queries.shape[-1] + 1)
    for ours, theirs in zip(queries, keys, strict=True):
        (root, inverse), (other, others) = _roots(ours), _roots(theirs)
        left, sizes, right = np.linalg.svd(root @ other)
        scale = np.sqrt(np.maximum(sizes, sizes[0] * FLOOR))
        made.append((inverse @ left * scale, others @ right.T * sizes / scale))
        lost[1:] += _tails(sizes, len(sizes))
    makers, readers = zip(*made, strict=True)
    return Basis(np.stack(makers), np.stack(readers), lost / max(lost[-1], TINY))


def ranking(bases: Sequence[Basis]) -> Ranking:
    """Return the order in which the indices of sorted bases go, and the error at each width."""
    lost = np.sum([basis.lost for basis in bases], axis=0)
    return Ranking(np.arange(len(lost) - 1)[::-1], lost)


def _tails(sizes: np.ndarray, n: int) -> np.ndarray:
    """Return the sums of the last 1, 2, ... n squares; singular values that are missing are 0."""
    squares = np.zeros(n)
    squares[: len(sizes)] = sizes**2
    return np.cumsum(squares[::-1])


def _roots(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return S^1/2 and S^-1/2."""
    sizes, vectors = np.linalg.eigh(moments)
    sizes = np.sqrt(np.maximum(sizes, max(float(sizes[-1]), TINY) * FLOOR))
    return (vectors * sizes) @ vectors.T, (vectors / sizes) @ vectors.T


def turn(place: Place, sides: Sequence[np.ndarray]) -> None:
    """Write a weight in another basis.

    Args:
        place: Where the group lies in it.
        sides: For each column of the place, the matrices that its blocks are mapped by.
    """

    def made(block: int, column: int, slices: np.ndarray) -> np.ndarray:
        whole = slices.astype(np.float64)
        return np.tensordot(sides[column][block].T, whole, 1).astype(slices.dtype)

    place.recast(made)

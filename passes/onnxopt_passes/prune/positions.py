"""Where the indices of variables lie along an axis, and what of an axis stays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.axes import Sum, Var, resolve, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt_passes.prune.axes import Axis


def columns(axis: Axis) -> dict[Var, np.ndarray]:
    """Return, for each variable of an axis, the positions that belong to each of its indices.

    Returns:
        By variable of n indices, int64 of shape (n, k), ascending along k.
    """
    found: dict[Var, list[np.ndarray]] = {}
    for var, at in _occurrences(resolve(axis)):
        found.setdefault(var, []).append(at)
    return {
        var: parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts, axis=1), axis=1)
        for var, parts in found.items()
    }


def _occurrences(axis: Axis) -> list[tuple[Var, np.ndarray]]:
    """Return each occurrence of a variable, with its positions as in `columns`."""
    if isinstance(axis, Var):
        return [(axis, np.arange(axis.size or 0)[:, None])]
    found: list[tuple[Var, np.ndarray]] = []
    if isinstance(axis, Sum):
        start = 0
        for term in axis.terms:
            found += [(var, at + start) for var, at in _occurrences(term)]
            start += size(term) or 0
        return found
    before, behind = 1, size(axis) or 0
    for factor in axis.factors:
        length = size(factor) or 1
        behind //= length
        outer, inner = np.arange(before)[:, None], np.arange(behind)
        for var, at in _occurrences(factor):
            spread = (outer[None] * length + at[:, None, :]).reshape(
                len(at), -1, 1
            ) * behind + inner
            found.append((var, np.sort(spread.reshape(len(at), -1), axis=1)))
        before *= length
    return found


def kept(axis: Axis, keep: Mapping[Var, np.ndarray]) -> np.ndarray:
    """Return the positions of an axis that stay, ascending.

    Args:
        axis: The axis.
        keep: By root variable, a boolean an index; variables that are missing stay whole.
    """
    return np.flatnonzero(_stays(resolve(axis), keep))


def _stays(axis: Axis, keep: Mapping[Var, np.ndarray]) -> np.ndarray:
    if isinstance(axis, Var):
        return keep[axis] if axis in keep else np.ones(axis.size or 0, bool)
    parts = axis.terms if isinstance(axis, Sum) else axis.factors
    found = [_stays(part, keep) for part in parts]
    if isinstance(axis, Sum):
        return np.concatenate(found) if found else np.zeros(0, bool)
    whole = np.ones(1, bool)
    for part in found:
        whole = (whole[:, None] & part).reshape(-1)
    return whole


def width(axis: Axis, keep: Mapping[Var, np.ndarray]) -> int | None:
    """Return how many indices of an axis stay; None where it is open."""
    axis = resolve(axis)
    if isinstance(axis, Var):
        return int(keep[axis].sum()) if axis in keep else axis.size
    parts = [width(part, keep) for part in (axis.terms if isinstance(axis, Sum) else axis.factors)]
    known = [n for n in parts if n is not None]
    if len(known) < len(parts):
        return None
    return sum(known) if isinstance(axis, Sum) else math.prod(known)

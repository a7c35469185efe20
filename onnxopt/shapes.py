"""Shapes and types known at a tensor, symbolic dimensions kept.

`infer` leaves what onnx's shape inference finds on the tensors; `dims` and `dtype` read it. Values
of shapes are followed by `shape_values`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt.inference import infer

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Axis:
    """An element of shape arithmetic whose value is known only when the model runs.

    Attributes:
        key: What it is: a symbol (`"batch"`), or the tensor's id and the axis; for an element
            that was computed, the tensor's id and -1 minus its index. Two with one key are equal.
    """

    key: str | tuple[int, int]


Element: TypeAlias = "int | Axis"
"""One element of a shape tensor."""


def dims(tensor: gs.Tensor) -> tuple[int | str | None, ...] | None:
    """Return the dimensions of a tensor: sizes, symbols, None where unknown; None without a rank.

    After `infer` this is what follows from the model's inputs and constants, else what the file
    says.
    """
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    declared = getattr(tensor, "shape", None)
    found: Any = getattr(tensor, "inferred", (None, declared))[1]
    return None if found is None else tuple(found)


def dtype(tensor: gs.Tensor) -> np.dtype | None:
    """Return the element type of a tensor, None where it is unknown."""
    if isinstance(tensor, gs.Constant):
        return None if tensor.dtype is None else np.dtype(tensor.dtype)
    found = getattr(tensor, "inferred", (None, None))[0]
    if found is None:
        found = getattr(tensor, "dtype", None)
    return None if found is None else np.dtype(found)


def note(
    tensor: gs.Tensor, kind: np.dtype | None, lengths: Sequence[int | str | None] | None
) -> None:
    """Note the type and the dimensions of a tensor, until the next `infer`: of one that is new."""
    tensor.inferred = (kind, None if lengths is None else tuple(lengths))  # type: ignore[attr-defined]


def learn(tensor: gs.Tensor, index: int, size: int) -> None:
    """Note that an axis whose length inference did not find is so long, until the next `infer`."""
    found = dims(tensor)
    if (
        found is not None
        and not isinstance(tensor, gs.Constant)
        and not isinstance(found[index], int)
    ):
        known = list(found)
        known[index] = size
        note(tensor, dtype(tensor), known)


def learn_all(tensor: gs.Tensor, lengths: Sequence[int | None]) -> None:
    """Note what is known of the lengths of all axes, until the next `infer`."""
    found = dims(tensor)
    if found is None and not isinstance(tensor, gs.Constant):
        note(tensor, dtype(tensor), lengths)
    elif found is not None and len(found) == len(lengths):
        for index, size in enumerate(lengths):
            if size is not None:
                learn(tensor, index, size)


def static(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return the shape where every dimension is a known size, else None."""
    found = dims(tensor)
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    return tuple(d for d in found if isinstance(d, int))


def nbytes(tensor: gs.Tensor) -> int | None:
    """Return the bytes of a tensor in memory, None where its size is unknown."""
    shape, kind = static(tensor), dtype(tensor)
    if shape is None or kind is None or kind.kind == "O":
        return None
    return math.prod(shape) * kind.itemsize


def axis(tensor: gs.Tensor, index: int) -> Element | None:
    """Return one dimension of a tensor as an element of shape arithmetic; None without a rank."""
    found = dims(tensor)
    if found is None or not -len(found) <= index < len(found):
        return None
    index %= len(found)
    size = found[index]
    if isinstance(size, int):
        return size
    return Axis(size if isinstance(size, str) else (id(tensor), index))


__all__ = [
    "Axis",
    "Element",
    "axis",
    "dims",
    "dtype",
    "infer",
    "learn",
    "learn_all",
    "nbytes",
    "note",
    "static",
]

"""The interface of a model: what callers feed and fetch, which no pass may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable

OVERRIDABLE_IR = 4
"""From this IR version on, an initializer that is also an input may be overridden by a caller."""

LOCATION = "weights"
"""Marks an initializer whose bytes are kept beside the message."""

Dim = int | str | None
"""A dimension: its size, its symbol (`"batch"`), or None where the model says nothing."""


@dataclass(frozen=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: Its name in the graph.
        kind: `tensor`, `sequence`, `optional`, `map`, `sparse` or `untyped`.
        dtype: The element type of a tensor (float8, bfloat16 and int4 as `ml_dtypes`); None for
            the other kinds. Strings have dtype `object`.
        shape: A dimension an axis; None where the model does not even give the rank.
        required: False for an overridable initializer, which has a default.
    """

    name: str
    kind: str
    dtype: np.dtype | None
    shape: tuple[Dim, ...] | None
    required: bool = True

    def __str__(self) -> str:
        """Render as `name: float32[N, 3, 224, 224]`."""
        what = str(self.dtype) if self.dtype is not None else self.kind
        if self.shape is None:
            return f"{self.name}: {what}[...]"
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {what}[{dims}]"


KINDS = {
    "tensor_type": "tensor",
    "sequence_type": "sequence",
    "optional_type": "optional",
    "map_type": "map",
    "sparse_tensor_type": "sparse",
}


def numpy_dtype(data_type: int) -> np.dtype | None:
    """Return the numpy dtype of an ONNX element type, None where there is none."""
    if data_type == onnx.TensorProto.STRING:
        return np.dtype(object)
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, ValueError, TypeError):
        return None


def dims_of(shape: onnx.TensorShapeProto) -> tuple[Dim, ...]:
    """Read the dimensions of a shape, symbols kept."""
    found: list[Dim] = []
    for dim in shape.dim:
        if dim.HasField("dim_value"):
            found.append(dim.dim_value)
        else:
            found.append(dim.dim_param or None)
    return tuple(found)


def port(value: onnx.ValueInfoProto, required: bool = True) -> Port:
    """Describe one input or output."""
    kind = KINDS.get(value.type.WhichOneof("value") or "", "untyped")
    if kind != "tensor":
        return Port(value.name, kind, None, None, required)
    tensor = value.type.tensor_type
    shape = dims_of(tensor.shape) if tensor.HasField("shape") else None
    return Port(value.name, kind, numpy_dtype(tensor.elem_type), shape, required)


def ports(
    values: Iterable[onnx.ValueInfoProto], optional: frozenset[str] = frozenset()
) -> tuple[Port, ...]:
    """Describe inputs or outputs; names in `optional` have a default."""
    return tuple(port(v, v.name not in optional) for v in values)

"""Weights as a graph holds them: bytes that stay where they are until somebody looks at them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxopt.errors import ModelError
from onnxopt.model.interface import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_graphsurgeon as gs

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
"""Bits an element takes in `raw_data`; types that are not here are carried, never looked at."""

INLINE = 4096
"""Bytes; smaller initializers stay in the message, where shape inference can read them."""


def raw_size(data_type: int, dims: Sequence[int]) -> int:
    """Return the bytes that `raw_data` needs; elements below a byte are packed."""
    return -(-math.prod(dims) * BITS[data_type] // 8)


class Stored(LazyValues):
    """Raw little-endian bytes, in a mapped file or in memory.

    Attributes:
        data_type: The ONNX element type.
        shape: The dimensions.
        raw: The bytes, uint8 of one axis, read-only.
        origin: The file that they are mapped from, and their offset in it; None in memory.
    """

    def __init__(
        self,
        data_type: int,
        shape: Sequence[int],
        raw: np.ndarray,
        name: str,
        origin: tuple[Path, int] | None = None,
    ) -> None:
        self.data_type = data_type
        self.shape = tuple(shape)
        self.raw = raw
        self.origin = origin
        self.nbytes = raw.nbytes
        dtype = numpy_dtype(data_type)
        if dtype is None or data_type not in BITS:
            raise ModelError(
                f"initializer {name!r} has element type {data_type}, which has no name"
            )
        self.dtype = dtype
        expected = raw_size(data_type, self.shape)
        if expected != raw.nbytes or any(d < 0 for d in self.shape):
            raise ModelError(
                f"initializer {name!r} has {raw.nbytes} bytes where {dtype}{list(self.shape)}"
                f" needs {expected}: the file is damaged"
            )

    def load(self) -> np.ndarray:
        """Return the values; a read-only view where the type allows one."""
        if BITS[self.data_type] < 8:
            packed = TensorProto(data_type=self.data_type, dims=self.shape)
            packed.raw_data = self.raw.tobytes()
            unpacked: np.ndarray = numpy_helper.to_array(packed)
            return unpacked
        values: np.ndarray = self.raw.view(self.dtype).reshape(self.shape)
        return values


class Packed(LazyValues):
    """A tensor as the file had it: typed fields, strings, and whatever `Stored` cannot hold."""

    def __init__(self, tensor: TensorProto) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = numpy_dtype(tensor.data_type)
        self.nbytes = tensor.ByteSize()
        self._loaded: np.ndarray | None = None

    def load(self) -> np.ndarray:
        """Return the values, read-only.

        Raises:
            ModelError: The data do not fill the dimensions.
        """
        if self._loaded is not None:
            return self._loaded
        try:
            values = numpy_helper.to_array(self.tensor)
        except (ValueError, TypeError, KeyError) as e:
            raise ModelError(f"tensor {self.tensor.name!r} cannot be read: {e}") from e
        values.flags.writeable = False
        self._loaded = values
        return values


class Sparse(LazyValues):
    """A sparse initializer: carried, never looked at."""

    def __init__(self, tensor: onnx.SparseTensorProto) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = numpy_dtype(tensor.values.data_type)
        self.nbytes = tensor.ByteSize()

    def load(self) -> np.ndarray:
        """Refuse: no rule may read a sparse tensor as if it were dense."""
        raise ModelError(f"sparse tensor {self.tensor.values.name!r} has no dense values")


def frozen(raw: bytes | memoryview) -> np.ndarray:
    """Return bytes as a read-only uint8 array of one axis."""
    view = np.frombuffer(raw, np.uint8)
    view.flags.writeable = False
    return view


def store(array: np.ndarray, name: str) -> Stored:
    """Return an array as the bytes that go to a file; no copy where it is contiguous."""
    data_type = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    if BITS.get(data_type, 0) < 8:
        raw = frozen(numpy_helper.from_array(array).raw_data)
    else:
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Stored(data_type, array.shape, raw, name)


def tensor_proto(constant: gs.Constant, name: str) -> TensorProto:
    """Return a constant as a message of its own."""
    values = constant._values
    if isinstance(values, Packed):
        tensor = TensorProto()
        tensor.CopyFrom(values.tensor)
        if tensor.name != name:
            tensor.name = name
        return tensor
    if isinstance(values, np.ndarray) and values.dtype == object:
        return numpy_helper.from_array(values, name)
    stored = values if isinstance(values, Stored) else store(np.asarray(values), name)
    tensor = TensorProto(data_type=stored.data_type, dims=stored.shape)
    if name:
        tensor.name = name
    tensor.raw_data = stored.raw.tobytes()
    return tensor


def nbytes(constant: gs.Constant) -> int:
    """Return the bytes that a constant takes in a file."""
    values = constant._values
    if isinstance(values, LazyValues):
        return values.nbytes
    if values.dtype == object:
        return sum(len(str(v)) for v in values.reshape(-1))
    data_type = int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))
    return raw_size(data_type, values.shape)

"""The tensors that a file holds: initializers and the values of Constant nodes, in all graphs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import AttributeProto, numpy_helper

from onnxopt.model.interface import numpy_dtype
from onnxopt.model.tensors import BITS, raw_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxopt.model import Exported
    from onnxopt.model.tensors import Stored


@dataclass(frozen=True)
class Held:
    """A tensor in a file.

    Attributes:
        name: Its name, the path of its subgraph in front.
        dtype: Its element type.
        shape: Its dimensions.
        nbytes: What it takes.
        source: The message; of a large one, its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    source: onnx.TensorProto | onnx.SparseTensorProto | Stored

    def digest(self) -> str:
        """Return a hash of type, shape and values, however they are stored."""
        found = hashlib.sha256(f"{self.dtype} {self.shape} ".encode())
        if isinstance(self.source, onnx.SparseTensorProto):
            found.update(self.source.SerializeToString(deterministic=True))
        elif not isinstance(self.source, onnx.TensorProto):
            found.update(self.source.raw.data)
        else:
            found.update(_values(self.source))
        return found.hexdigest()


def held(exported: Exported) -> Iterator[Held]:
    """Yield all tensors that a model holds."""
    proto = exported.proto
    for tensor in proto.graph.initializer:
        stored = exported.weights.get(tensor.name)
        if stored is not None:
            dtype = str(stored.dtype)
            yield Held(tensor.name, dtype, stored.shape, stored.nbytes, stored)
        else:
            yield _dense(tensor, tensor.name)
    yield from _rest(proto.graph, "", skip=True)
    for function in proto.functions:
        yield from _in_nodes(function.node, f"{function.domain}::{function.name}/")


def _rest(graph: onnx.GraphProto, path: str, skip: bool = False) -> Iterator[Held]:
    for tensor in () if skip else graph.initializer:
        yield _dense(tensor, path + tensor.name)
    for sparse in graph.sparse_initializer:
        dtype = _dtype(sparse.values.data_type)
        name = path + sparse.values.name
        yield Held(name, dtype, tuple(sparse.dims), sparse.ByteSize(), sparse)
    yield from _in_nodes(graph.node, path)


def _in_nodes(nodes: Sequence[onnx.NodeProto], path: str) -> Iterator[Held]:
    for node in nodes:
        label = node.name or next((o for o in node.output if o), node.op_type)
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                yield _dense(a.t, path + node.output[0])
            bodies = [a.g] if a.type == AttributeProto.GRAPH else list(a.graphs)
            for body in bodies:
                yield from _rest(body, f"{path}{label}.{a.name}/")


def _dense(tensor: onnx.TensorProto, name: str) -> Held:
    dims = tuple(tensor.dims)
    known = tensor.data_type in BITS
    size = raw_size(tensor.data_type, dims) if known else tensor.ByteSize()
    return Held(name, _dtype(tensor.data_type), dims, size, tensor)


def _dtype(data_type: int) -> str:
    if data_type == onnx.TensorProto.STRING:
        return "string"
    return str(numpy_dtype(data_type) or f"type {data_type}")


def _values(tensor: onnx.TensorProto) -> bytes:
    try:
        if tensor.data_type in BITS:
            return bytes(numpy_helper.to_array(tensor).tobytes())
    except (ValueError, TypeError, KeyError):
        pass
    return bytes(tensor.SerializeToString(deterministic=True))

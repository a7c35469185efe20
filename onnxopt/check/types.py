"""Types and sizes of tensors as onnx infers them, for rules that ask what a node changes."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import onnx

from onnxopt.check.subject import bodies
from onnxopt.check.validity import broken
from onnxopt.model.tensors import BITS, raw_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnxopt.check.subject import Scope, Subject

Kind = tuple[int, tuple[int, ...] | None]
"""An element type, and a shape; None where a dimension is unknown."""

UNKNOWN: Kind = (0, None)


class Types:
    """What is known of the tensors of a model.

    Args:
        subject: The model. If it is broken only what it declares is known.
    """

    def __init__(self, subject: Subject) -> None:
        self._known: dict[int, dict[str, Kind]] = {}
        source = subject.proto if broken(subject) else _inferred(subject)
        graphs = dict(_graphs(source.graph, ()))
        for keys, graph in _graphs(subject.proto.graph, ()):
            self._known[id(graph)] = _kinds(graphs.get(keys, graph))

    def kind(self, scope: Scope, name: str) -> Kind:
        """Return the type and shape of a tensor that a graph sees."""
        at: Scope | None = scope
        while at is not None:
            found = self._known.get(id(at.source), {}).get(name)
            if found is not None:
                return found
            at = None if at.defines(name) else at.outer
        return UNKNOWN

    def nbytes(self, scope: Scope, name: str) -> int | None:
        """Return the bytes of a tensor; None where they are not known."""
        data_type, dims = self.kind(scope, name)
        return raw_size(data_type, dims) if data_type in BITS and dims is not None else None


@lru_cache(maxsize=1)
def of(subject: Subject) -> Types:
    """Return what is known of a model's tensors; several rules ask in turn."""
    return Types(subject)


def _inferred(subject: Subject) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(subject.stripped.proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, TypeError):
        return subject.proto  # OPT003 says what is wrong


def _graphs(
    graph: onnx.GraphProto, keys: tuple[object, ...]
) -> Iterator[tuple[tuple[object, ...], onnx.GraphProto]]:
    """Yield a graph and the bodies in it, each with where it is."""
    yield keys, graph
    for number, node in enumerate(graph.node):
        for name, body in bodies(node):
            yield from _graphs(body, (*keys, number, name))


def _kinds(graph: onnx.GraphProto) -> dict[str, Kind]:
    values: Iterable[onnx.ValueInfoProto] = (*graph.value_info, *graph.input, *graph.output)
    known = {v.name: _kind(v.type.tensor_type) for v in values if v.type.HasField("tensor_type")}
    known.update((t.name, (t.data_type, tuple(t.dims))) for t in graph.initializer)
    return known


def _kind(tensor: onnx.TypeProto.Tensor) -> Kind:
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    sized = all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim)
    return tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim) if sized else None

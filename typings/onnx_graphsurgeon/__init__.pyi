"""The part of onnx-graphsurgeon that onnxopt uses; the package ships no types."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx_graphsurgeon.ir.tensor import LazyValues

class Tensor:
    name: str
    inputs: list[Node]
    outputs: list[Node]
    def is_empty(self) -> bool: ...

class Variable(Tensor):
    dtype: Any
    shape: Any
    type: str
    def __init__(
        self, name: str, dtype: Any = ..., shape: Sequence[Any] | None = ..., type: str = ...
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    _values: Any
    values: np.ndarray
    data_location: int | None
    def __init__(
        self,
        name: str,
        values: np.ndarray | LazyValues,
        data_location: int | None = ...,
        export_dtype: Any = ...,
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...

class Node:
    class AttributeRef:
        name: str
        type: Any
        def __init__(self, name: str, type: Any) -> None: ...

    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = ...,
        attrs: dict[str, Any] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        domain: str | None = ...,
    ) -> None: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    name: str
    doc_string: str
    opset: int
    import_domains: Any
    functions: list[Function]
    def __init__(
        self,
        nodes: Sequence[Node] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        name: str | None = ...,
        doc_string: str | None = ...,
        opset: int | None = ...,
        import_domains: Iterable[onnx.OperatorSetIdProto] | None = ...,
        producer_name: str | None = ...,
        producer_version: str | None = ...,
        functions: Sequence[Function] | None = ...,
        ir_version: int | None = ...,
    ) -> None: ...
    def subgraphs(self, recursive: bool = ...) -> Iterator[Graph]: ...

class Function(Graph):
    domain: str
    attrs: dict[str, Any]
    def __init__(
        self,
        name: str,
        domain: str | None = ...,
        nodes: Sequence[Node] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        doc_string: str | None = ...,
        opset: int | None = ...,
        import_domains: Iterable[onnx.OperatorSetIdProto] | None = ...,
        functions: Sequence[Function] | None = ...,
        attrs: dict[str, Any] | None = ...,
        ir_version: int | None = ...,
    ) -> None: ...

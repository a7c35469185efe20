"""A model file as the rules look at it: messages as they are in the file, nothing repaired.

The importer sorts and completes what it reads; a linter has to see what is there. So this reads
the messages alone, and weights stay in the mapped file until a rule looks at them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnxopt.check.floats import Floats, scan
from onnxopt.errors import ModelError
from onnxopt.model import files
from onnxopt.model.interface import LOCATION, OVERRIDABLE_IR
from onnxopt.model.tensors import BITS, raw_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from onnxopt.check.settings import Budgets
    from onnxopt.model import Exported
    from onnxopt.model.tensors import Stored

STANDARD = ("", "ai.onnx")


class Scope:
    """A graph, a body or a function.

    Attributes:
        path: Where it is; empty for the main graph.
        nodes: In the order of the file.
        held: Its initializers by name.
        inputs: Names that callers feed.
        outputs: Names that it returns.
        outer: The graph around it; None for the main graph and functions.
        captured: Names that bodies inside it read from it, or from around it.
    """

    def __init__(
        self,
        path: str,
        source: onnx.GraphProto | onnx.FunctionProto,
        outer: Scope | None = None,
    ) -> None:
        self.path = path
        self.source = source
        self.nodes = list(source.node)
        self.outer = outer
        self.captured: set[str] = set()
        if isinstance(source, onnx.FunctionProto):
            self.held: dict[str, TensorProto] = {}
            self.sparse: set[str] = set()
            self.inputs, self.outputs = list(source.input), list(source.output)
        else:
            self.held = {t.name: t for t in source.initializer}
            self.sparse = {t.values.name for t in source.sparse_initializer}
            self.inputs = [v.name for v in source.input]
            self.outputs = [v.name for v in source.output]
        if not all(isinstance(n, str) for n in _names(self)):
            raise ModelError("a name in it is no UTF-8 text: the file is damaged")
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            self.makers.update((name, node) for name in node.output if name)
            for name in node.input:
                if name:
                    self.readers[name].append(node)

    def label(self, node: onnx.NodeProto) -> str:
        """Return how messages call a node: its path and name, else its first output's."""
        return self.path + (node.name or next((o for o in node.output if o), node.op_type))

    def defines(self, name: str) -> bool:
        """Whether this very graph has a tensor of that name."""
        return (
            name in self.makers or name in self.held or name in self.sparse or name in self.inputs
        )

    def knows(self, name: str) -> bool:
        """Whether a name means anything here."""
        return self.defines(name) or (self.outer is not None and self.outer.knows(name))

    def seen(self, name: str) -> bool:
        """Whether anything but nodes of this graph sees a tensor."""
        return name in self.outputs or name in self.captured

    def sole(self, name: str, *ops: str) -> onnx.NodeProto | None:
        """Return the node of one of these standard ops whose output one node alone reads."""
        node = self.makers.get(name)
        if node is None or not is_op(node, *ops) or self.seen(name):
            return None
        others = any(self.readers[o] or self.seen(o) for o in node.output if o and o != name)
        return node if len(self.readers[name]) == 1 and not others else None


def _names(scope: Scope) -> Iterator[object]:
    """Yield all names of a graph; protobuf gives bytes for what is no text."""
    yield from (*scope.held, *scope.inputs, *scope.outputs)
    for node in scope.nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)


def is_op(node: onnx.NodeProto | None, *ops: str) -> bool:
    """Whether a node is one of these standard ops."""
    return node is not None and node.op_type in ops and node.domain in STANDARD


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the bodies of a node with the names of their attributes."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.name, a.g
        for i, graph in enumerate(a.graphs):
            yield f"{a.name}[{i}]", graph


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """Return an attribute of a node; its default where it has none, None if a caller gives it."""
    for a in node.attribute:
        if a.name == name:
            return None if a.ref_attr_name else onnx.helper.get_attribute_value(a)
    return default


class Subject:
    """A model file that is being checked.

    Args:
        path: The file.
        budgets: What it is held to.

    Raises:
        ModelError: It cannot be read at all.

    Attributes:
        scopes: All graphs: the main one, bodies, functions; an outer one before those in it.
    """

    def __init__(self, path: Path, budgets: Budgets) -> None:
        self.path = path
        self.budgets = budgets
        self.proto, self.weights = files.read(path)
        self.external = files.External(path.parent)
        self.scopes = self._scopes()

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set; 0 where the file does not say."""
        versions = [o.version for o in self.proto.opset_import if o.domain in STANDARD]
        return max(versions, default=0)

    def _scopes(self) -> tuple[Scope, ...]:
        found: list[Scope] = []
        main = Scope("", self.proto.graph)
        functions = [Scope(f"{f.domain}::{f.name}/", f) for f in self.proto.functions]
        stack = [main, *functions]
        while stack:
            scope = stack.pop()
            found.append(scope)
            for node in scope.nodes:
                for name, body in bodies(node):
                    stack.append(Scope(f"{scope.label(node)}.{name}/", body, scope))
        for scope in found:
            _capture(scope)
        return tuple(found)

    @cached_property
    def overridable(self) -> frozenset[str]:
        """Initializers of the main graph that callers may override."""
        if self.proto.ir_version < OVERRIDABLE_IR:
            return frozenset()
        held = {t.name for t in self.proto.graph.initializer}
        return frozenset(v.name for v in self.proto.graph.input if v.name in held)

    def constant(self, scope: Scope | None, name: str) -> TensorProto | None:
        """Return the tensor that a name always stands for, None for what is fed or computed."""
        while scope is not None:
            if name in scope.held:
                fed = scope.outer is None and name in self.overridable
                return None if fed else scope.held[name]
            node = scope.makers.get(name)
            if node is not None and is_op(node, "Constant"):
                return next((a.t for a in node.attribute if a.name == "value"), None)
            if scope.defines(name):
                return None
            scope = scope.outer
        return None

    def values(self, tensor: TensorProto) -> np.ndarray | None:
        """Return the values of a tensor; None where they are missing, damaged or no numbers."""
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                stored = self.weights.get(tensor.name) if not tensor.external_data else None
                return (stored or self.external(tensor)).load()
            found: np.ndarray = numpy_helper.to_array(tensor)
        except (ModelError, ValueError, TypeError, KeyError):
            return None
        return None if found.dtype.kind in "OSU" else found

    def constants(self) -> Iterator[tuple[Scope, str, TensorProto]]:
        """Yield all dense tensors of the file: (graph, name, message)."""
        for scope in self.scopes:
            yield from ((scope, name, tensor) for name, tensor in scope.held.items())
            for node in scope.nodes:
                if is_op(node, "Constant") and node.output:
                    for a in node.attribute:
                        if a.name == "value" and a.type == AttributeProto.TENSOR:
                            yield scope, node.output[0], a.t

    @cached_property
    def floats(self) -> tuple[Floats, ...]:
        """What is in each float constant."""
        return tuple(scan(self))

    def size(self, tensor: TensorProto) -> int:
        """Return the bytes of a tensor; those of its message where its type is unknown."""
        known = tensor.data_type in BITS and all(d >= 0 for d in tensor.dims)
        return raw_size(tensor.data_type, tensor.dims) if known else tensor.ByteSize()

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the model, its external data included."""
        data = {p for t in self.proto.graph.initializer if (p := self._data_file(t)) is not None}
        return self.path.stat().st_size + sum(p.stat().st_size for p in data)

    def _data_file(self, tensor: TensorProto) -> Path | None:
        location = next((e.value for e in tensor.external_data if e.key == "location"), None)
        if location is None:
            return None
        try:
            path = self.external.locate(location, tensor.name)
        except ModelError:
            return None
        return path if path.is_file() else None

    @cached_property
    def stripped(self) -> Exported:
        """The model for onnx's own checks: large and external initializers are left out."""
        from onnxopt.model import Exported

        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                del tensor.external_data[:]
                tensor.external_data.add(key="location", value=LOCATION)
        return Exported(proto, {})

    @cached_property
    def exported(self) -> Exported:
        """The model for onnxruntime, as it is in the file, its weights beside it.

        Raises:
            ModelError: External data cannot be read.
        """
        from onnxopt.model import Exported

        weights: dict[str, Stored] = dict(self.weights)
        for tensor in self.proto.graph.initializer:
            if tensor.external_data:
                weights[tensor.name] = self.external(tensor)
        return Exported(self.stripped.proto, weights)


def outside_functions(subject: Subject) -> Iterator[Scope]:
    """Yield graphs and bodies; what a function holds depends on who calls it."""
    for scope in subject.scopes:
        outermost = scope
        while outermost.outer is not None:
            outermost = outermost.outer
        if not outermost.path:
            yield scope


def _capture(scope: Scope) -> None:
    """Tell the graphs around a body which of their tensors it reads or returns."""
    outer = scope.outer
    if outer is None:
        return
    reads = [*scope.readers, *scope.outputs]
    foreign = {name for name in reads if not scope.defines(name)}
    while outer is not None and foreign:
        outer.captured |= foreign
        foreign = {name for name in foreign if not outer.defines(name)}
        outer = outer.outer


def elements(dims: Sequence[int]) -> int:
    """Return how many elements a tensor of these dimensions has."""
    return math.prod(dims)

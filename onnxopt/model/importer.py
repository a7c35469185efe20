"""Messages to graphs. Nothing is lost: what a graph cannot express stays on its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto

from onnxopt.errors import ModelError
from onnxopt.model import ir
from onnxopt.model.interface import dims_of, numpy_dtype
from onnxopt.model.tensors import BITS, INLINE, Packed, Sparse, Stored, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message
    from onnx_graphsurgeon.ir.tensor import LazyValues

    Scopes = tuple[dict[str, gs.Tensor], ...]

M = TypeVar("M", bound="Message")

Resolve = Callable[[TensorProto], Stored]
"""Finds the bytes of an initializer that are not in the message."""

NODE = frozenset({"input", "output", "name", "op_type", "domain", "attribute"})
GRAPH = frozenset(
    {"node", "name", "initializer", "sparse_initializer", "input", "output", "value_info"}
)
FUNCTION = frozenset({"node", "input", "output"})
TENSOR = frozenset(
    {
        *("dims", "data_type", "name", "raw_data", "segment", "external_data", "data_location"),
        *("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"),
    }
)
SCALARS = {AttributeProto.FLOAT: "f", AttributeProto.INT: "i"}
LISTS = {AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints"}
REF_TYPES: dict[int, object] = {
    AttributeProto.FLOAT: float,
    AttributeProto.INT: int,
    AttributeProto.STRING: str,
}


def remainder(proto: M, known: frozenset[str]) -> M | None:
    """Return the set fields of a message that are not in `known`; None where there are none."""
    left = [(field.name, value) for field, value in proto.ListFields() if field.name not in known]
    if not left:
        return None
    rest: M = type(proto)()
    for name, value in left:
        if hasattr(value, "CopyFrom"):
            getattr(rest, name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(rest, name).extend(value)
        else:
            setattr(rest, name, value)
    return rest


class Importer:
    """Turns the messages of one model into graphs.

    Args:
        opsets: Version by domain, `""` for the default domain.
        resolve: Finds data that are not in the message.
        overridable: Whether an initializer that is also an input is a default that a caller may
            override. Before IR version 4 every initializer had to be an input, and none was.
    """

    def __init__(self, opsets: dict[str, int], resolve: Resolve, overridable: bool) -> None:
        self.opsets = opsets
        self.resolve = resolve
        self.overridable = overridable

    def model(self, proto: onnx.ModelProto) -> ir.Graph:
        """Convert the main graph and the functions of a model.

        Raises:
            ModelError: A name is defined twice, or an initializer's data do not fit.
        """
        graph = self.graph(proto.graph, ())
        graph.functions = [self.function(f) for f in proto.functions]
        return graph

    def graph(self, proto: onnx.GraphProto, outer: Scopes) -> ir.Graph:
        """Convert one graph; `outer` are the names that it can capture, outermost first."""
        local: dict[str, gs.Tensor] = {}
        constants = [self.constant(t) for t in proto.initializer]
        constants += [_sparse(t) for t in proto.sparse_initializer]
        defaults = {c.name: c for c in constants}
        if len(defaults) != len(constants):
            raise ModelError(f"two initializers are named {_twice(c.name for c in constants)!r}")
        values = list(enumerate(proto.input))
        slots: list[ir.Slot] = []
        if not self.overridable and not outer:
            slots = [(i, _copy(v), defaults[v.name]) for i, v in values if v.name in defaults]
            taken = {i for i, _, _ in slots}
            values = [(i, v) for i, v in values if i not in taken]
        inputs = [_input(v, defaults) for _, v in values]
        declared = {t.name for t in inputs}
        homes = [c for c in constants if c.name not in declared]
        _define(local, inputs)
        _define(local, homes)
        for node in proto.node:
            _define(local, [ir.Variable(name) for name in node.output if name])
        stale = _type(local, proto.value_info)
        scopes = (*outer, local)
        nodes = [self.node(n, scopes) for n in proto.node]
        fed = {id(t) for t in inputs}
        outputs = [self._output(v, scopes, fed) for v in proto.output]
        graph = ir.Graph(
            nodes, inputs, outputs, proto.name, proto.doc_string, self.opsets.get("", 1)
        )
        graph.rest = remainder(proto, GRAPH | {"doc_string"})
        graph.initializers = list(homes)
        graph.stale, graph.slots = stale, slots
        graph.passed_on = {v.name: _copy(v) for v in proto.output if id(local.get(v.name)) in fed}
        graph.shadows = frozenset(n for n in local if any(n in s for s in outer))
        return graph

    def function(self, proto: onnx.FunctionProto) -> ir.Function:
        """Convert a model-local function."""
        local: dict[str, gs.Tensor] = {}
        inputs = [ir.Variable(name) for name in proto.input]
        _define(local, inputs)
        for node in proto.node:
            _define(local, [ir.Variable(name) for name in node.output if name])
        nodes = [self.node(n, (local,)) for n in proto.node]
        outputs = [_lookup(name, (local,)) for name in proto.output]
        opsets = {i.domain: i.version for i in proto.opset_import}
        function = ir.Function(
            proto.name,
            proto.domain,
            nodes,
            inputs,
            outputs,
            opset=opsets.get("", self.opsets.get("", 1)),
        )
        rest = remainder(proto, FUNCTION)
        function.rest = onnx.FunctionProto() if rest is None else rest
        return function

    def node(self, proto: onnx.NodeProto, scopes: Scopes) -> ir.Node:
        """Convert one node."""
        attrs = {a.name: self.attribute(a, scopes) for a in proto.attribute}
        node = ir.Node(
            proto.op_type,
            proto.name,
            attrs,
            [_lookup(name, scopes) for name in proto.input],
            [_lookup(name, scopes[-1:]) for name in proto.output],
            proto.domain or None,
        )
        rest = remainder(proto, NODE)
        if rest is not None:
            node.rest = rest
        docs = {a.name: a.doc_string for a in proto.attribute if a.doc_string}
        if docs:
            node.attribute_docs = docs
        return node

    def attribute(self, proto: AttributeProto, scopes: Scopes) -> Any:
        """Convert an attribute; a kind that Python values cannot express stays a message."""
        if proto.ref_attr_name:
            if proto.type in REF_TYPES:
                return gs.Node.AttributeRef(proto.ref_attr_name, REF_TYPES[proto.type])
        elif proto.type in SCALARS:
            return getattr(proto, SCALARS[proto.type])
        elif proto.type in LISTS and len(getattr(proto, LISTS[proto.type])):
            return list(getattr(proto, LISTS[proto.type]))
        elif proto.type == AttributeProto.STRING:
            return _text(proto.s)
        elif proto.type == AttributeProto.STRINGS and proto.strings:
            return [_text(s) for s in proto.strings]
        elif proto.type == AttributeProto.TENSOR:
            return self.constant(proto.t)
        elif proto.type == AttributeProto.GRAPH:
            return self.graph(proto.g, scopes)
        elif proto.type == AttributeProto.GRAPHS and proto.graphs:
            return [self.graph(g, scopes) for g in proto.graphs]
        kept = AttributeProto()
        kept.CopyFrom(proto)
        kept.ClearField("doc_string")
        return kept

    def constant(self, proto: TensorProto) -> ir.Constant:
        """Convert a dense tensor, detached from the message that holds it."""
        values: LazyValues
        if proto.data_location == TensorProto.EXTERNAL:
            values = self.resolve(proto)
        elif len(proto.raw_data) >= INLINE and proto.data_type in BITS:
            values = Stored(proto.data_type, proto.dims, frozen(proto.raw_data), proto.name)
        else:
            if proto.HasField("raw_data") and proto.data_type in BITS:
                Stored(proto.data_type, proto.dims, frozen(proto.raw_data), proto.name)  # fits?
            tensor = TensorProto()
            tensor.CopyFrom(proto)
            values = Packed(tensor)
        constant = ir.Constant(proto.name, values)
        constant.rest = remainder(proto, TENSOR)
        return constant

    def _output(self, value: onnx.ValueInfoProto, scopes: Scopes, fed: set[int]) -> gs.Tensor:
        tensor = _lookup(value.name, scopes)
        if id(tensor) in fed:
            return tensor
        if isinstance(tensor, ir.Variable) and value.name in scopes[-1]:
            _describe(tensor, value)
        elif isinstance(tensor, ir.Constant):
            tensor.carried = _copy(value)
        return tensor


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(value)
    return kept


def _describe(tensor: ir.Variable, value: onnx.ValueInfoProto) -> None:
    """Give a variable the type of its description."""
    tensor.carried = _copy(value)
    if value.type.WhichOneof("value") == "tensor_type":
        kind = value.type.tensor_type
        tensor.dtype = numpy_dtype(kind.elem_type)
        tensor.shape = list(dims_of(kind.shape)) if kind.HasField("shape") else None
    tensor.known = (tensor.dtype, None if tensor.shape is None else tuple(tensor.shape))


def _input(value: onnx.ValueInfoProto, defaults: dict[str, ir.Constant]) -> ir.Variable:
    tensor = ir.Variable(value.name)
    if value.name in defaults:
        tensor = ir.Overridable(value.name)
        tensor.default = defaults[value.name]
    _describe(tensor, value)
    return tensor


def _sparse(proto: onnx.SparseTensorProto) -> ir.Constant:
    tensor = onnx.SparseTensorProto()
    tensor.CopyFrom(proto)
    return ir.Constant(proto.values.name, Sparse(tensor))


def _define(local: dict[str, gs.Tensor], tensors: Iterable[gs.Tensor]) -> None:
    for tensor in tensors:
        if tensor.name in local:
            raise ModelError(f"{tensor.name!r} is defined twice; names must be unique in a graph")
        local[tensor.name] = tensor


def _lookup(name: str, scopes: Scopes) -> gs.Tensor:
    if not name:
        return ir.Variable("")
    for scope in reversed(scopes):
        if name in scope:
            return scope[name]
    raise ModelError(f"{name!r} is used, but nothing produces it")


def _type(
    local: dict[str, gs.Tensor], values: Iterable[onnx.ValueInfoProto]
) -> list[onnx.ValueInfoProto]:
    """Give tensors the types that the graph lists; return those of unknown names."""
    stale = []
    for value in values:
        tensor = local.get(value.name)
        if isinstance(tensor, ir.Constant):
            tensor.carried = _copy(value)
        elif isinstance(tensor, ir.Variable) and tensor.carried is None:
            _describe(tensor, value)
        else:
            stale.append(_copy(value))
    return stale


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]

"""Graphs to messages: valid order, unique names, and weights left out of the message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto

from onnxopt.model import ir
from onnxopt.model.interface import LOCATION, OVERRIDABLE_IR
from onnxopt.model.layout import Names, homes, in_order
from onnxopt.model.tensors import INLINE, Sparse, Stored, store, tensor_proto

if TYPE_CHECKING:
    from collections.abc import Iterable


class Exporter:
    """Turns graphs into messages.

    Attributes:
        weights: The bytes of the main graph's large initializers, by name; in the message they
            are external tensors at `LOCATION`.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Stored] = {}
        self.as_nodes = False
        self.names = Names()

    def model(self, graph: gs.Graph, header: onnx.ModelProto) -> onnx.ModelProto:
        """Convert a whole model; `header` has all but graph and functions."""
        proto = onnx.ModelProto()
        proto.CopyFrom(header)
        self.as_nodes = header.ir_version < OVERRIDABLE_IR
        constants = homes(graph)
        self.graph(graph, constants, proto.graph, keep_bytes=False)
        proto.functions.extend(self.function(f) for f in graph.functions)
        known = {o.domain if o.domain != "ai.onnx" else "" for o in proto.opset_import}
        for domain in sorted(_domains(graph) - known):
            proto.opset_import.add(domain=domain, version=1)
        return proto

    def graph(
        self,
        graph: gs.Graph,
        constants: dict[int, list[gs.Constant]],
        proto: onnx.GraphProto,
        keep_bytes: bool = True,
    ) -> None:
        """Convert one graph into a message; all names that it captures have been given out."""
        own = constants[id(graph)]
        proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        rest = ir.carried(graph, "rest", None)
        if rest is not None:
            proto.MergeFrom(rest)
        declared = ir.carried(graph, "slots", [])
        slots = _fill(declared, own)
        self.names.enter(graph, own)
        as_nodes: list[gs.Constant] = []
        if self.as_nodes:  # an initializer would have to be an input
            held = {id(c) for _, _, c in (*slots, *declared)}
            came = held | {id(c) for c in ir.carried(graph, "initializers", ())}
            as_nodes = [c for c in own if id(c) not in came]
            own = [c for _, _, c in slots]
            own += [c for c in constants[id(graph)] if id(c) in came and id(c) not in held]
        for tensor in graph.inputs:
            proto.input.append(self.value(tensor))
            if isinstance(tensor, ir.Overridable):
                self._initializer(proto, tensor.default, tensor.name, keep_bytes=True)
        inputs = list(proto.input)
        for index, declaration, _ in slots:
            inputs.insert(index, declaration)
        proto.ClearField("input")
        proto.input.extend(inputs)
        taken = {id(c): d.name for _, d, c in slots}
        for constant in own:
            name = taken.get(id(constant)) or self.names.of(constant)
            self.names.given[id(constant)] = name
            self._initializer(proto, constant, name, keep_bytes)
        proto.node.extend(_constant_node(c, self.names.of(c)) for c in as_nodes)
        nodes = in_order(graph)
        proto.node.extend(self.node(n, constants) for n in nodes)
        passed_on = ir.carried(graph, "passed_on", {})
        fed = {id(t) for t in graph.inputs}
        for tensor in graph.outputs:
            described = passed_on.get(tensor.name) if id(tensor) in fed else None
            proto.output.append(described or self.value(tensor))
        self._value_info(proto, graph, nodes, own)
        self.names.leave()

    def function(self, function: gs.Function) -> onnx.FunctionProto:
        """Convert a model-local function; its constants become nodes, as it has no initializers."""
        proto = onnx.FunctionProto()
        if isinstance(function, ir.Function):
            proto.CopyFrom(function.rest)
        proto.name, proto.domain = function.name, function.domain
        constants = homes(function)
        own = constants[id(function)]
        self.names.enter(function, own)
        proto.input.extend(self.names.of(t) for t in function.inputs)
        proto.node.extend(_constant_node(c, self.names.of(c)) for c in own)
        proto.node.extend(self.node(n, constants) for n in in_order(function))
        proto.output.extend(self.names.of(t) for t in function.outputs)
        self.names.leave()
        return proto

    def node(self, node: gs.Node, constants: dict[int, list[gs.Constant]]) -> onnx.NodeProto:
        """Convert one node."""
        proto = onnx.NodeProto(op_type=node.op, name=node.name or None, domain=node.domain or None)
        rest = getattr(node, "rest", None)
        if rest is not None:
            proto.MergeFrom(rest)
        proto.input.extend(self.names.of(t) for t in node.inputs)
        proto.output.extend(self.names.of(t) for t in node.outputs)
        docs = getattr(node, "attribute_docs", None) or {}
        for name, value in node.attrs.items():
            attribute = self.attribute(name, value, constants)
            if name in docs:
                attribute.doc_string = docs[name]
            proto.attribute.append(attribute)
        return proto

    def attribute(
        self, name: str, value: Any, constants: dict[int, list[gs.Constant]]
    ) -> AttributeProto:
        """Convert one attribute."""
        if isinstance(value, AttributeProto):
            proto = AttributeProto()
            proto.CopyFrom(value)
            proto.name = name
            return proto
        if isinstance(value, gs.Node.AttributeRef):
            kind = {
                float: AttributeProto.FLOAT,
                int: AttributeProto.INT,
                str: AttributeProto.STRING,
            }
            return AttributeProto(name=name, ref_attr_name=value.name, type=kind[value.type])
        if isinstance(value, gs.Graph):
            proto = AttributeProto(name=name, type=AttributeProto.GRAPH)
            self.graph(value, constants, proto.g)
            return proto
        if isinstance(value, gs.Constant):
            tensor = _tensor(value, value.name)
            return AttributeProto(name=name, type=AttributeProto.TENSOR, t=tensor)
        if isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            proto = AttributeProto(name=name, type=AttributeProto.GRAPHS)
            for inner in value:
                self.graph(inner, constants, proto.graphs.add())
            return proto
        return onnx.helper.make_attribute(name, value)

    def value(self, tensor: gs.Tensor) -> onnx.ValueInfoProto:
        """Describe a tensor: as it came where its type still holds, else anew."""
        name = self.names.of(tensor)
        carried = getattr(tensor, "carried", None)
        if isinstance(tensor, gs.Constant):
            if carried is None or not _holds(carried, tensor):
                return _value_info(name, tensor.dtype, tensor.shape)
            return _renamed(carried, name)
        held: Any = tensor
        shape = None if held.shape is None else tuple(held.shape)
        dtype = held.dtype
        if carried is not None and getattr(tensor, "known", None) == (dtype, shape):
            return _renamed(carried, name)
        return _value_info(name, dtype, shape)

    def _initializer(
        self, proto: onnx.GraphProto, constant: gs.Constant, name: str, keep_bytes: bool
    ) -> None:
        values = constant._values
        if isinstance(values, Sparse):
            proto.sparse_initializer.add().CopyFrom(values.tensor)
            proto.sparse_initializer[-1].values.name = name
            return
        if isinstance(values, np.ndarray) and values.dtype != object and values.nbytes >= INLINE:
            values = store(values, name)
        if keep_bytes or not isinstance(values, Stored) or values.nbytes < INLINE:
            tensor = _tensor(constant, name)
        else:
            self.weights[name] = values
            tensor = TensorProto(name=name, data_type=values.data_type, dims=values.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=LOCATION)
        _add_rest(tensor, constant)
        proto.initializer.append(tensor)

    def _value_info(
        self,
        proto: onnx.GraphProto,
        graph: gs.Graph,
        nodes: list[gs.Node],
        own: Iterable[gs.Constant],
    ) -> None:
        ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
        for constant in own:
            if getattr(constant, "carried", None) is not None and id(constant) not in ends:
                proto.value_info.append(self.value(constant))
        for node in nodes:
            for tensor in node.outputs:
                if id(tensor) in ends or not tensor.name:
                    continue
                if tensor.dtype is not None or getattr(tensor, "carried", None) is not None:  # type: ignore[attr-defined]
                    proto.value_info.append(self.value(tensor))
        used = self.names.scopes[-1]
        proto.value_info.extend(v for v in ir.carried(graph, "stale", ()) if v.name not in used)


def _fill(slots: list[ir.Slot], constants: list[gs.Constant]) -> list[ir.Slot]:
    """Give the places of initializers that nothing reads any more to new ones of the same type.

    Before IR version 4 every initializer takes a place in the list of inputs, which is frozen.
    """
    if not slots:
        return []
    held = {id(c) for _, _, c in slots}
    free = [c for c in constants if id(c) not in held]
    filled: list[ir.Slot] = []
    for index, declaration, constant in slots:
        if not constant.outputs:
            same = (c for c in free if c.shape == constant.shape and c.dtype == constant.dtype)
            heir = next(same, None)
            if heir is not None:
                free = [c for c in free if c is not heir]
                constant = heir
        filled.append((index, declaration, constant))
    return filled


def _tensor(constant: gs.Constant, name: str) -> TensorProto:
    tensor = tensor_proto(constant, name)
    _add_rest(tensor, constant)
    return tensor


def _add_rest(tensor: TensorProto, constant: gs.Constant) -> None:
    rest = getattr(constant, "rest", None)
    if rest is not None and not tensor.doc_string and not tensor.metadata_props:
        tensor.MergeFrom(rest)


def _constant_node(constant: gs.Constant, name: str) -> onnx.NodeProto:
    if isinstance(constant._values, Sparse):
        return onnx.helper.make_node(
            "Constant", [], [name], name=name, sparse_value=constant._values.tensor
        )
    tensor = _tensor(constant, "")
    return onnx.helper.make_node("Constant", [], [name], name=name, value=tensor)


def _domains(graph: gs.Graph) -> set[str]:
    return {
        "" if node.domain in (None, "ai.onnx") else str(node.domain)
        for _, inner in ir.nested(graph)
        for node in inner.nodes
    }


def _holds(carried: onnx.ValueInfoProto, constant: gs.Constant) -> bool:
    """Whether the shape that a file lists for a weight is still that of its values."""
    listed = carried.type.tensor_type
    if not listed.HasField("shape"):
        return True
    pairs = zip(listed.shape.dim, constant.shape, strict=False)
    same = all(not d.HasField("dim_value") or d.dim_value == size for d, size in pairs)
    return same and len(listed.shape.dim) == len(constant.shape)


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _value_info(name: str, dtype: Any, shape: Any) -> onnx.ValueInfoProto:
    if dtype is None:
        return onnx.ValueInfoProto(name=name)
    data_type = int(TensorProto.STRING)
    if np.dtype(dtype).kind != "O":
        data_type = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    return onnx.helper.make_tensor_value_info(name, data_type, shape)

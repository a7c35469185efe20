"""Types and shapes by onnx's own inference, left on the tensors as `inferred`, never written.

Only the inputs of the main graph and the constants are believed. The shapes that a file lists for
everything else are often stale (a batch made dynamic by editing the inputs alone), so inference
does not see them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference

from onnxopt.model import ir
from onnxopt.model.interface import OVERRIDABLE_IR, dims_of, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxopt.model import Model

MOST_BODIES = 1024
"""onnx copies all names of a graph for each body; beyond so many, bodies are not looked into."""

SHORT = 16
"""Elements of the longest constant whose values bodies are told."""

INFERRED = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training"})
"""Domains whose ops onnx has shape inference for."""

VAGUE = frozenset({"?", "-1", "none", "any", "dynamic", "unk", "unknown", "undefined"})
"""Symbols that exporters give to every dimension they do not know: one name, many sizes."""


def infer(model: Model, known: Mapping[int, Sequence[int | str | None]] | None = None) -> None:
    """Find types and shapes of all tensors by onnx's shape inference, and leave them there.

    What inference cannot find has no shape afterwards, and the type that the file says.

    Args:
        model: The model.
        known: Dimensions of tensors of the main graph that were found in another way, by id.
    """
    exported, names = model.export_named()
    proto = exported.proto
    forget(proto)
    returned = {v.name: v for v in proto.graph.output}
    made = (t for node in model.graph.nodes for t in node.outputs if known and id(t) in known)
    for tensor in made:
        kind = getattr(tensor, "inferred", (None,))[0]
        if known and kind is not None:
            element = onnx.helper.np_dtype_to_tensor_dtype(kind)
            value = onnx.helper.make_tensor_value_info(
                names[id(tensor)], element, known[id(tensor)]
            )
            if value.name in returned:
                returned[value.name].type.CopyFrom(value.type)
            else:
                proto.graph.value_info.append(value)
    _lend(proto.graph, {})
    try:
        found = shape_inference.infer_shapes(proto, data_prop=True).graph
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        found = onnx.GraphProto(input=proto.graph.input)
    _annotate(model.graph, found, names)
    for function in model.graph.functions:
        _annotate(function, onnx.GraphProto(), names)


def forget(proto: onnx.ModelProto) -> bool:
    """Drop what inference must not believe; False if bodies had to go, being too many."""
    graph = proto.graph
    if proto.ir_version >= OVERRIDABLE_IR:
        fed = {v.name for v in graph.input}
        kept = [t for t in graph.initializer if t.name not in fed]
        if len(kept) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(kept)
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.dim_value < 0 or dim.dim_param.lower() in VAGUE:
                dim.Clear()
    local = {(f.domain, f.name) for f in proto.functions}
    for function in proto.functions:
        function.ClearField("value_info")
    whole = sum(len(list(_bodies(node))) for node in graph.node) <= MOST_BODIES
    if not whole:
        _strip(graph)
    stack = [(graph, True)]
    while stack:
        current, outermost = stack.pop()
        _forget_declared(current, outermost, local)
        _sort_axes(current)
        stack.extend((body, False) for node in current.node for body in _bodies(node))
    return whole


def _lend(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> None:
    """Repeat short integer constants in the bodies that capture them: onnx looks for values there.

    Without, an Unsqueeze in a branch whose axes are an initializer of the main graph has no shape.
    """
    own = {o for node in graph.node for o in node.output} | {v.name for v in graph.input}
    held = {t.name for t in graph.initializer}
    visible = {n: t for n, t in outer.items() if n not in own and n not in held}
    read = dict.fromkeys(name for node in graph.node for name in node.input if name in visible)
    graph.initializer.extend(visible[name] for name in read)
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    visible |= {
        t.name: t
        for t in graph.initializer
        if t.data_type in whole and len(t.dims) < 2 and sum(t.dims) <= SHORT and not t.external_data
    }
    for node in graph.node:
        for body in _bodies(node):
            _lend(body, visible)


def _strip(graph: onnx.GraphProto) -> None:
    """Take the bodies out of nodes: what is in them is then unknown."""
    for node in graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            kept = [a for a in node.attribute if a.type != onnx.AttributeProto.GRAPH]
            del node.attribute[:]
            node.attribute.extend(kept)


def _sort_axes(graph: onnx.GraphProto) -> None:
    """Order the axes of Squeeze: as attribute, onnx infers wrong shapes from unsorted ones."""
    for node in graph.node:
        if node.op_type == "Squeeze":
            for attribute in node.attribute:
                attribute.ints[:] = sorted(attribute.ints)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _forget_declared(graph: onnx.GraphProto, outermost: bool, local: set[tuple[str, str]]) -> None:
    """Drop the listed shapes; of ops that inference does not know, keep the type and the rank."""
    foreign = {
        name
        for node in graph.node
        if node.domain not in INFERRED and (node.domain, node.op_type) not in local
        for name in node.output
    }
    kept = [v for v in graph.value_info if v.name in foreign]
    for value in kept:
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            dim.Clear()
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for value in (*graph.output, *(() if outermost else graph.input)):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


_dtype_of = cache(numpy_dtype)


def _annotate(graph: gs.Graph, proto: onnx.GraphProto, names: dict[int, str]) -> None:
    known = {
        v.name: v.type.tensor_type
        for v in (*proto.value_info, *proto.output, *proto.input)
        if v.type.HasField("tensor_type")
    }
    made = [t for node in graph.nodes for t in node.outputs]
    for tensor in (*graph.inputs, *made):
        if not isinstance(tensor, gs.Variable):
            continue
        found = known.get(names.get(id(tensor), ""))
        if found is None:
            tensor.inferred = (tensor.dtype, None)  # type: ignore[attr-defined]
            continue
        shape = _sizes(found.shape) if found.HasField("shape") else None
        kind = _dtype_of(found.elem_type) if found.elem_type else tensor.dtype
        tensor.inferred = (kind, shape)  # type: ignore[attr-defined]
    twins = {n.output[0]: n for n in proto.node if n.output and n.attribute}
    for node in graph.nodes:
        inner = list(ir.bodies(node)) if node.attrs else []
        if not inner:
            continue
        twin = twins.get(names.get(id(node.outputs[0]), "") if node.outputs else "")
        protos = {a.name: a.g for a in twin.attribute} if twin is not None else {}
        for name, body in inner:
            _annotate(body, protos.get(name, onnx.GraphProto()), names)


def _sizes(shape: onnx.TensorShapeProto) -> tuple[int | str | None, ...]:
    return tuple(None if isinstance(d, str) and d.lower() in VAGUE else d for d in dims_of(shape))

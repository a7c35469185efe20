"""What a model costs by count: nodes, parameters, multiply-accumulates. Latency is measured."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, shape_inference

from onnxopt.inference import forget
from onnxopt.runtime import CannotRun, Session, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from onnxopt.model import Exported

    Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """Counts of a model.

    Attributes:
        nbytes: Size of the file.
        nodes: Nodes in all graphs, Constant nodes not counted.
        params: Elements of all initializers and Constant nodes.
        macs: Multiply-accumulates of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN on one
            input; None where a shape that they need is unknown. Of an If the dearer branch counts,
            of a Loop or Scan one iteration.
        ops: How often each op occurs.
    """

    nbytes: int
    nodes: int
    params: int
    macs: int | None
    ops: dict[str, int]


def measure(exported: Exported, feed: Mapping[str, Any] | None = None) -> Cost:
    """Count a model; dynamic dimensions take their sizes from `feed`, else 1."""
    ops: Counter[str] = Counter()
    params = 0
    graphs = list(_graphs(exported.proto))
    for graph, nodes in graphs:
        for tensor in () if graph is None else graph.initializer:
            params += math.prod(tensor.dims)
        for node in nodes:
            name = (
                node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
            )
            ops[name] += 1
            if node.op_type == "Constant":
                params += sum(math.prod(a.t.dims) for a in node.attribute if a.name == "value")
    constants = ops.pop("Constant", 0)
    if constants:
        ops["Constant"] = constants
    total = sum(n for op, n in ops.items() if op != "Constant")
    return Cost(exported.nbytes, total, params, _macs(exported, feed), dict(sorted(ops.items())))


def _graphs(proto: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto | None, Any]]:
    stack: list[tuple[onnx.GraphProto | None, Any]] = [(proto.graph, proto.graph.node)]
    stack += [(None, f.node) for f in proto.functions]
    while stack:
        graph, nodes = stack.pop()
        yield graph, nodes
        for node in nodes:
            for a in node.attribute:
                if a.type == AttributeProto.GRAPH:
                    stack.append((a.g, a.g.node))
                stack += [(g, g.node) for g in a.graphs]


def _macs(exported: Exported, feed: Mapping[str, Any] | None) -> int | None:
    proto = onnx.ModelProto()
    proto.CopyFrom(exported.proto)
    for value in proto.graph.input:
        shape = np.shape((feed or {}).get(value.name, ()))
        dims = value.type.tensor_type.shape.dim
        for i, dim in enumerate(dims):
            if dim.dim_value <= 0:  # a symbol, nothing, or the -1 that some exporters write
                dim.dim_value = shape[i] if len(shape) == len(dims) else 1
    if not forget(proto):
        return None
    try:
        inferred = shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # noqa: BLE001  # onnx raises what it likes; then the count is unknown
        return None
    total = _graph_macs(inferred.graph, {})
    if total is None and feed is not None:
        total = _graph_macs(proto.graph, _observed(exported, feed))
    return total


def _observed(exported: Exported, feed: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes that the inputs and outputs of counted nodes have in a run."""
    proto = onnx.ModelProto()
    proto.CopyFrom(exported.proto)
    held = {v.name for v in (*proto.graph.output, *proto.graph.input, *proto.graph.initializer)}
    for node in proto.graph.node:
        if node.op_type in COUNT:
            for name in (*node.input, node.output[0]):
                if name and name not in held:
                    held.add(name)
                    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        session = Session(type(exported)(proto, exported.weights), Settings(lean=True))
        return {name: np.shape(value) for name, value in session.run(feed).items()}
    except CannotRun:
        return {}


def _graph_macs(graph: onnx.GraphProto, outer: dict[str, Shape]) -> int | None:
    shapes = outer | _static_shapes(graph)
    total = 0
    for node in graph.node:
        bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
        if bodies:
            found = [_graph_macs(body, shapes) for body in bodies]
            known = [n for n in found if n is not None]
            if len(known) < len(found):
                return None
            total += max(known)
        count = COUNT.get(node.op_type)
        if count is not None and node.domain in ("", "ai.onnx", "com.microsoft"):
            try:
                total += count(node, [shapes[n] for n in node.input if n], shapes)
            except (KeyError, IndexError):
                return None
    return total


def _static_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for a in node.attribute:
                if a.name == "value":
                    shapes[node.output[0]] = tuple(a.t.dims)
    return shapes


def _conv(node: onnx.NodeProto, inputs: list[Shape], shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(inputs[1][1:])


def _conv_transpose(node: onnx.NodeProto, inputs: list[Shape], shapes: dict[str, Shape]) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _gemm(node: onnx.NodeProto, inputs: list[Shape], shapes: dict[str, Shape]) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shapes[node.output[0]]) * inputs[0][0 if transposed else 1]


def _matmul(node: onnx.NodeProto, inputs: list[Shape], shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * inputs[0][-1]


def _recurrent(node: onnx.NodeProto, inputs: list[Shape], shapes: dict[str, Shape]) -> int:
    steps, batch = inputs[0][:2]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


COUNT: dict[str, Callable[[onnx.NodeProto, list[Shape], dict[str, Shape]], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "LSTM": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}

"""A model's nodes as plain JSON, for people to look through and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import AttributeProto

from onnxopt.model.interface import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

    from onnxopt.model import Exported

LAST = -1

DECODERS = ("DequantizeLinear", "Cast", "Mul", "Transpose", "Identity")
"""What may stand between a stored weight and the layer that reads it."""

WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": LAST, "MatMul": LAST, "ConvInteger": 0}
"""Ops with channels, and the axis of the weight that the output channels are on."""


def nodes(exported: Exported) -> list[dict[str, Any]]:
    """Return all nodes in the order in which they run, bodies after the node that they belong to.

    Returns:
        One dict a node: `graph` (path of the body it is in), `name` (its first output's where it
        has none), `op`, `inputs`, `outputs`, and where it has a weight, `weight` (`name`, `dtype`,
        `shape`) and `width`, its output channels.
    """
    proto = exported.proto
    found = list(_nodes(proto.graph.node, _held(proto.graph, {}), ""))
    for function in proto.functions:
        found += _nodes(function.node, {}, f"{function.domain}::{function.name}/")
    return found


def _nodes(
    nodes: Iterable[onnx.NodeProto], held: dict[str, onnx.TensorProto], path: str
) -> Iterator[dict[str, Any]]:
    made: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        made.update((name, node) for name in node.output)
        label = node.name or next((o for o in node.output if o), node.op_type)
        found = {
            "graph": path,
            "name": label,
            "op": f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            "inputs": list(node.input),
            "outputs": list(node.output),
        }
        weight, turned = _weight(node, held, made)
        if weight is not None:
            found["weight"] = {
                "name": weight.name,
                "dtype": str(numpy_dtype(weight.data_type)),
                "shape": list(weight.dims),
            }
            found["width"] = _width(node, weight, turned)
        yield found
        for a in node.attribute:
            bodies = [a.g] if a.type == AttributeProto.GRAPH else list(a.graphs)
            for body in bodies:
                yield from _nodes(body.node, _held(body, held), f"{path}{label}.{a.name}/")


def _held(
    graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]
) -> dict[str, onnx.TensorProto]:
    return {**outer, **{t.name: t for t in graph.initializer}}


def _weight(
    node: onnx.NodeProto, held: dict[str, onnx.TensorProto], made: dict[str, onnx.NodeProto]
) -> tuple[onnx.TensorProto | None, bool]:
    """Return the weight of a layer, looked for behind what decodes it, and if it is transposed."""
    index = {"QLinearConv": 3, "QLinearMatMul": 3}.get(node.op_type, 1)
    layered = node.op_type in WEIGHTED or index == 3 or node.op_type.startswith("MatMul")
    if not layered or len(node.input) <= index:
        return None, False
    name, turned = node.input[index], False
    while name not in held:
        before = made.get(name)
        if before is None or before.op_type not in DECODERS or not before.input:
            return None, False
        turned ^= before.op_type == "Transpose"
        name = before.input[0]
    return held[name], turned


def _width(node: onnx.NodeProto, weight: onnx.TensorProto, turned: bool) -> int | None:
    axis = WEIGHTED.get(node.op_type)
    if axis is None or len(weight.dims) < 2 or (turned and len(weight.dims) != 2):
        return None
    turned ^= node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return int(weight.dims[0 if turned and axis == LAST else axis])

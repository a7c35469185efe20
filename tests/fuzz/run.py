"""Single nodes: made, and run by onnxruntime on what their inputs hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzz.scope import Value

RUNS = 3
"""Sets of inputs that a model is drawn with."""

LARGEST = 1024
"""Elements of a tensor; larger ones are not let in."""

WIDEST = 2000
"""Magnitude of a float; sums of larger ones would be rounded too visibly."""

GRAPH = onnx.AttributeProto.GRAPH


def code(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def make_node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attrs: Any
) -> onnx.NodeProto:
    """Make a node without fields that say nothing, and without attributes that are None."""
    node = onnx.NodeProto(op_type=op, input=inputs, output=outputs)
    if domain:
        node.domain = domain
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in attrs.items() if value is not None
    )
    return node


def reads(node: onnx.NodeProto) -> set[str]:
    """Return all names that a node and its bodies read."""
    names = set(node.input) - {""}
    for attribute in node.attribute:
        if attribute.type == GRAPH:
            names |= {v.name for v in attribute.g.output}
            names = names.union(*(reads(n) for n in attribute.g.node))
    return names


def evaluate(
    node: onnx.NodeProto,
    inputs: Sequence[Value],
    opsets: Sequence[onnx.OperatorSetIdProto],
    functions: Sequence[onnx.FunctionProto],
) -> list[tuple[np.ndarray, ...]] | None:
    """Run one node on all runs; None if onnxruntime refuses, or values or sizes are too large."""
    fed = [v for v in inputs if not v.known]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(v.name, code(v.dtype), [None] * v.rank) for v in fed],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(v.arrays[0], v.name) for v in inputs if v.known],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets, functions=functions)
    try:
        session = load(model)
        runs = [session.run(None, {v.name: v.arrays[i] for v in fed}) for i in range(RUNS)]
    except Exception:  # noqa: BLE001  # onnxruntime's exceptions have no common base
        return None
    outputs = list(zip(*runs, strict=True))
    return outputs if all(_fit(arrays) for arrays in outputs) else None


def _fit(arrays: Sequence[np.ndarray]) -> bool:
    if len({a.ndim for a in arrays}) > 1 or arrays[0].ndim > 6:
        return False
    for a in arrays:
        if a.size > LARGEST or (a.dtype.kind == "f" and a.size and not np.abs(a).max() < WIDEST):
            return False
    return True


def load(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Load a model as it is written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

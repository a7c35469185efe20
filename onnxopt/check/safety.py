"""OPT4xx: can opening it do harm?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule
from onnxopt.check.subject import elements, is_op
from onnxopt.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Scope, Subject

HUGE = 2**32
"""Elements; 16 GiB as float32."""

LONGEST = 64
"""Elements of a shape that is read."""


def data_outside(subject: Subject) -> Iterator[tuple[str, str]]:
    """External data are outside the model's folder.

    An absolute path, `..`, or a link that leads out: loading the model would read any file of the
    machine. onnxopt refuses it, and so does onnxruntime. Move the data beside the model.
    """
    for tensor in subject.proto.graph.initializer:
        location = next((e.value for e in tensor.external_data if e.key == "location"), None)
        if location is None:
            continue
        try:
            subject.external.locate(location, tensor.name)
        except ModelError as e:
            yield tensor.name, str(e)


def huge_tensor(subject: Subject) -> Iterator[tuple[str, str]]:
    """A tensor of constant shape is larger than the memory of most machines.

    A few bytes in the file can ask for terabytes: ConstantOfShape, Expand and Tile of a constant
    shape, or declared dimensions. Where it is meant, ignore this code for the file.
    """
    for scope in subject.scopes:
        for node in scope.nodes:
            count = _made(subject, scope, node)
            if count is not None and count > HUGE:
                yield scope.label(node), f"this {node.op_type} makes {count:,} elements"
    graph = subject.proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if elements(dims) > HUGE:
            yield value.name, f"its declared shape {dims} has {elements(dims):,} elements"


def negative_dimension(subject: Subject) -> Iterator[tuple[str, str]]:
    """A declared dimension is negative.

    Some exporters write -1 for an unknown size. ONNX has symbols for that (`dim_param`); runtimes
    take -1 for anything from an error to a size of 2**64 - 1.
    """
    graph = subject.proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if min(dims, default=0) < 0:
            yield value.name, f"its declared shape {dims} has a negative size; use a symbol"


def _made(subject: Subject, scope: Scope, node: onnx.NodeProto) -> int | None:
    """Return how many elements a node makes by a constant shape; None where it does not."""
    index = {"ConstantOfShape": 0, "Expand": 1}.get(node.op_type)
    if index is None or not is_op(node, node.op_type) or len(node.input) <= index:
        return None
    tensor = subject.constant(scope, node.input[index])
    if tensor is None or elements(tensor.dims) > LONGEST:
        return None
    shape = subject.values(tensor)
    return None if shape is None else elements([max(int(d), 0) for d in shape.reshape(-1)])


RULES = (
    Rule("OPT401", Level.ERROR, data_outside),
    Rule("OPT402", Level.WARNING, huge_tensor),
    Rule("OPT403", Level.WARNING, negative_dimension),
)

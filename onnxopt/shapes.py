"""Shapes and shape values known at a tensor, symbolic dimensions kept.

`infer` runs onnx's shape inference and leaves what it finds on the tensors, as `inferred`: it is
never written to the file. `dims` and `dtype` read it, `elements` follows shape arithmetic
(Shape, Gather, Concat, ...) back to the dimensions that it is made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.interface import dims_of, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onnxopt.model import Model

MAX_ELEMENTS = 64
"""Longest tensor that is followed as shape arithmetic."""

DEPTH = 32
"""Longest chain of nodes that is followed."""


@dataclass(frozen=True)
class Axis:
    """A dimension whose size is known only when the model runs.

    Attributes:
        key: What it is: a symbol (`"batch"`), or the tensor's id and the axis. Two axes with one
            key have the same size.
    """

    key: str | tuple[int, int]


Element = int | Axis
"""One element of a shape tensor."""


def infer(model: Model) -> None:
    """Find types and shapes of all tensors by onnx's shape inference, and leave them there.

    What inference cannot find stays unknown; a model that it cannot read at all keeps only what
    its file says.
    """
    exported, names = model.export_named()
    try:
        proto = shape_inference.infer_shapes(exported.proto, data_prop=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        return
    _annotate(model.graph, proto.graph, names)


def _annotate(graph: gs.Graph, proto: onnx.GraphProto, names: dict[int, str]) -> None:
    known = {
        v.name: v.type.tensor_type
        for v in (*proto.value_info, *proto.output, *proto.input)
        if v.type.WhichOneof("value") == "tensor_type"
    }
    bodies = {n.output[0]: n for n in proto.node if n.output and n.attribute}
    for node in graph.nodes:
        for tensor in node.outputs:
            found = known.get(names.get(id(tensor), ""))
            if found is not None and isinstance(tensor, gs.Variable):
                shape = dims_of(found.shape) if found.HasField("shape") else None
                tensor.inferred = (numpy_dtype(found.elem_type), shape)  # type: ignore[attr-defined]
        if not node.attrs or not node.outputs:
            continue
        inner = [v for v in node.attrs.items() if isinstance(v[1], gs.Graph)]
        if inner:
            twin = bodies.get(names.get(id(node.outputs[0]), ""))
            twins = {a.name: a.g for a in twin.attribute} if twin is not None else {}
            for name, body in inner:
                if name in twins:
                    _annotate(body, twins[name], names)


def dims(tensor: gs.Tensor) -> tuple[int | str | None, ...] | None:
    """Return the dimensions of a tensor: sizes, symbols, None where unknown; None without a rank."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    inferred: Any = getattr(tensor, "inferred", (None, None))[1]
    declared = getattr(tensor, "shape", None)
    if inferred is not None and declared is not None and len(inferred) == len(declared):
        return tuple(_finer(a, b) for a, b in zip(inferred, declared, strict=True))
    found = inferred if inferred is not None else declared
    return None if found is None else tuple(found)


def _finer(a: int | str | None, b: int | str | None) -> int | str | None:
    """Return the more telling of two descriptions of a dimension."""
    if isinstance(a, int) or b is None:
        return a
    return b if isinstance(b, int) or a is None else a


def dtype(tensor: gs.Tensor) -> np.dtype | None:
    """Return the element type of a tensor, None where it is unknown."""
    if isinstance(tensor, gs.Constant):
        return None if tensor.dtype is None else np.dtype(tensor.dtype)
    found = getattr(tensor, "inferred", (None, None))[0] or getattr(tensor, "dtype", None)
    return None if found is None else np.dtype(found)


def static(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return the shape where every dimension is a known size, else None."""
    found = dims(tensor)
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    return tuple(d for d in found if isinstance(d, int))


def nbytes(tensor: gs.Tensor) -> int | None:
    """Return the bytes of a tensor in memory, None where its size is unknown."""
    shape, kind = static(tensor), dtype(tensor)
    if shape is None or kind is None or kind == object:
        return None
    return math.prod(shape) * kind.itemsize


def axis(tensor: gs.Tensor, index: int) -> Element | None:
    """Return one dimension of a tensor as an element of shape arithmetic; None without a rank."""
    found = dims(tensor)
    if found is None or not -len(found) <= index < len(found):
        return None
    index %= len(found)
    size = found[index]
    if isinstance(size, int):
        return size
    return Axis(size if isinstance(size, str) else (id(tensor), index))


def elements(tensor: gs.Tensor, depth: int = DEPTH) -> list[Element] | None:
    """Follow shape arithmetic; return the elements of a tensor of rank 0 or 1, None if unknown."""
    values = match.constant(tensor)
    if values is not None:
        if values.dtype.kind not in "iu" or values.ndim > 1 or values.size > MAX_ELEMENTS:
            return None
        return [int(v) for v in values.reshape(-1)]
    node = match.producer(tensor)
    if node is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
        return None
    follow = FOLLOW.get(node.op)
    return None if follow is None else follow(node, depth - 1)


def _shape(node: gs.Node, depth: int) -> list[Element] | None:
    source = node.inputs[0]
    found = dims(source)
    if found is None:
        return None
    span = range(len(found))[node.attrs.get("start", 0) : node.attrs.get("end", None)]
    result = [axis(source, i) for i in span]
    return None if any(e is None for e in result) else [e for e in result if e is not None]


def _same(node: gs.Node, depth: int) -> list[Element] | None:
    return elements(node.inputs[0], depth)


def _cast(node: gs.Node, depth: int) -> list[Element] | None:
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return elements(node.inputs[0], depth) if node.attrs.get("to") in whole else None


def _gather(node: gs.Node, depth: int) -> list[Element] | None:
    data, index = elements(node.inputs[0], depth), elements(node.inputs[1], depth)
    rank = dims(node.inputs[0])
    if data is None or index is None or rank is None or len(rank) != 1:
        return None
    chosen = [i for i in index if isinstance(i, int) and -len(data) <= i < len(data)]
    return [data[i] for i in chosen] if len(chosen) == len(index) else None


def _concat(node: gs.Node, depth: int) -> list[Element] | None:
    parts = [elements(t, depth) for t in node.inputs]
    if any(p is None for p in parts):
        return None
    return [e for p in parts if p is not None for e in p]


def _slice(node: gs.Node, depth: int) -> list[Element] | None:
    data = elements(node.inputs[0], depth)
    if data is None:
        return None
    if len(node.inputs) == 1:
        bounds = [node.attrs.get("starts"), node.attrs.get("ends"), node.attrs.get("axes", [0]), [1]]
    else:
        given = [match.constant(t) if t.name else None for t in node.inputs[1:]]
        if given[0] is None or given[1] is None or any(
            t.name and c is None for t, c in zip(node.inputs[1:], given, strict=True)
        ):
            return None
        given += [None] * (4 - len(given))
        bounds = [None if g is None else g.reshape(-1).tolist() for g in given]
    start, stop, axes, step = bounds
    if start is None or stop is None or len(start) != 1 or (axes or [0])[0] not in (0, -1):
        return None
    return data[start[0] : stop[0] : (step or [1])[0]] if (step or [1])[0] > 0 else None


def _arithmetic(operate: Callable[[int, int], int]) -> Callable[[gs.Node, int], list[Element] | None]:
    def follow(node: gs.Node, depth: int) -> list[Element] | None:
        a, b = elements(node.inputs[0], depth), elements(node.inputs[1], depth)
        if a is None or b is None or len(a) != len(b) or not _whole((*a, *b)):
            return None
        try:
            return [operate(x, y) for x, y in zip(a, b, strict=True)]  # type: ignore[arg-type]
        except ZeroDivisionError:
            return None

    return follow


def _whole(found: Iterable[Element]) -> bool:
    return all(isinstance(e, int) for e in found)


FOLLOW: dict[str, Callable[[gs.Node, int], list[Element] | None]] = {
    "Shape": _shape,
    "Identity": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Mul": _arithmetic(lambda a, b: a * b),
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Div": _arithmetic(lambda a, b: int(a / b) if b else a // b),
}
"""How the elements of an output come from those of the inputs."""


__all__ = [
    "Axis",
    "Element",
    "axis",
    "dims",
    "dtype",
    "elements",
    "infer",
    "ir",
    "nbytes",
    "static",
]

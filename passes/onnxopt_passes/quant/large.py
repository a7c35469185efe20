"""Large constants of a model: which are weights, what reads them, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.interface import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxopt.model import Model

LARGE = 1024
"""Constants with more elements are quantized, or listed with a reason."""

WORTHWHILE = 256
"""Elements from which on integers, scales and nodes take fewer bytes than a weight's floats."""

WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Einsum": tuple(range(8)),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
"""Inputs by which an op multiplies, or which it looks rows up in."""

BIASED = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "LSTM", "GRU", "RNN")
"""Ops that add what they read behind their weights."""

MOVES = {
    "Identity": (0,),
    "Transpose": (0,),
    "Reshape": (0,),
    "Flatten": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Cast": (0,),
    "Concat": tuple(range(64)),
}
"""Inputs whose elements an op passes on; what stands behind it is asked instead."""

DECODE = ("Cast", "Sub", "Concat", "Floor", "Mul", "Gather")
"""Ops between stored integers and the product with their scales."""

FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Weight:
    """A large float constant that nodes multiply by, or look rows up in.

    Attributes:
        name: Path of the graph that reads it first, and its name: how edit ids call it.
        tensor: An initializer, or the output of a Constant node.
        values: What it holds; not to be written to.
        home: The graph that declares it: all its readers see what nodes there make.
        uses: The nodes that read it, and at which input.
    """

    name: str
    tensor: gs.Tensor
    values: np.ndarray
    home: gs.Graph
    uses: tuple[tuple[gs.Node, int], ...]

    def read_by(self, op: str, index: int) -> bool:
        """Whether all that reads it is this input of such nodes."""
        return all(match.is_op(n, op) and i == index for n, i in self.uses)


def find(model: Model, least: int = LARGE) -> tuple[list[Weight], dict[str, str]]:
    """Return the weights of all graphs, and for other large constants why they are none.

    `match.stamp` must have been called.

    Args:
        model: The model.
        least: Elements that a weight must have more of.
    """
    weights: list[Weight] = []
    reasons: dict[str, str] = {}
    declared = _homes(model)
    for name, tensor, values, readers in constants(model, least):
        if _integers(values) or _is_coded(readers) or not _reads(readers[0], tensor):
            continue
        reason = _reason(tensor, values)
        if reason and values.size > LARGE:
            reasons[name] = reason
        elif not reason:
            home = declared.get(id(tensor)) or _owner(tensor)
            weights.append(Weight(name, tensor, values, home, tuple(_uses(tensor))))
    for tensor in model.graph.inputs:
        if isinstance(tensor, ir.Overridable) and tensor.default.values.size > LARGE:
            reasons[tensor.name] = "callers may feed another value"
    return weights, reasons


def _homes(model: Model) -> dict[int, gs.Graph]:
    """Return the graph that declares each initializer, by the initializer's id."""
    found: dict[int, gs.Graph] = {}
    for _, graph in model.graphs():
        for constant in ir.carried(graph, "initializers", ()):
            found.setdefault(id(constant), graph)
    return found


def _owner(tensor: gs.Tensor) -> gs.Graph:
    """Return the graph of the Constant node, else of the first reader."""
    maker = match.producer(tensor)
    node = tensor.outputs[0] if maker is None else maker
    return node.owner  # type: ignore[attr-defined, no-any-return]


def constants(
    model: Model, least: int
) -> Iterator[tuple[str, gs.Tensor, np.ndarray, list[gs.Node]]]:
    """Yield the large constants of all graphs but for scales of integers, each once.

    Args:
        model: The model.
        least: Elements that they have more of.

    Yields:
        Path of the graph and name, the tensor, what it holds, and the nodes that read it, or the
        node that has it as an attribute.
    """
    seen: set[int] = set()
    for path, graph in model.graphs():
        for node in graph.nodes:
            for tensor in (*node.inputs, *_held(node)):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                values = match.constant(tensor)
                if values is None or values.size <= least or is_scale(tensor):
                    continue
                readers = list(tensor.outputs) if _reads(node, tensor) else [node]
                yield f"{path}{tensor.name or node.outputs[0].name}", tensor, values, readers


def _held(node: gs.Node) -> list[gs.Tensor]:
    return [v for v in node.attrs.values() if isinstance(v, gs.Constant)]


def _reads(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a tensor is an input of a node, not an attribute."""
    return any(t is tensor for t in node.inputs)


def _integers(values: np.ndarray) -> bool:
    """Whether it is stored in few bits already."""
    return values.dtype.itemsize == 1 or values.dtype.name in ("int16", "uint16")


def _is_coded(readers: Sequence[gs.Node]) -> bool:
    """Whether they read integers that stand for floats, such as a bias in int32."""
    return all(match.is_op(node, "DequantizeLinear") for node in readers)


INTEGER_LSTM = "DynamicQuantizeLSTM"
"""onnxruntime's own LSTM in integers."""

LSTM_INPUTS = 8
"""Inputs of LSTM; in that of integers a scale and a zero point for W, then for R, come behind."""


def is_scale(tensor: gs.Tensor) -> bool:
    """Whether all that reads a tensor multiplies integers by it, or what integers are made of."""
    return bool(tensor.outputs) and all(_scales(node, tensor) for node in tensor.outputs)


def _scales(node: gs.Node, tensor: gs.Tensor) -> bool:
    if match.is_op(node, "DequantizeLinear"):
        return node.inputs[0] is not tensor
    if match.is_op(node, "Gather"):
        return node.inputs[0] is tensor and is_scale(node.outputs[0])
    if node.op == INTEGER_LSTM:
        return any(t is tensor for t in node.inputs[LSTM_INPUTS:])
    if not match.is_op(node, "Mul"):
        return False
    others = [t for t in node.inputs if t is not tensor]
    return any(_from_bytes(t) or _dynamic(t) for t in others) or _smooths(node)


def _smooths(node: gs.Node) -> bool:
    """Whether integers are made of what a Mul computes, and nothing else (`smooth`)."""
    readers = node.outputs[0].outputs
    return bool(readers) and all(match.is_op(r, "DynamicQuantizeLinear") for r in readers)


def _dynamic(tensor: gs.Tensor) -> bool:
    """Whether it is the scale that DynamicQuantizeLinear gives an activation."""
    return match.is_op(match.producer(tensor), "DynamicQuantizeLinear")


def _from_bytes(tensor: gs.Tensor) -> bool:
    """Whether a tensor is unpacked from a constant of few bits an element."""
    values = match.constant(tensor)
    if values is not None:
        return _integers(values)
    maker = match.producer(tensor)
    return match.is_op(maker, *DECODE) and _from_bytes(maker.inputs[0])  # type: ignore[union-attr]


def _reason(tensor: gs.Tensor, values: np.ndarray) -> str:
    if values.dtype.name not in FLOATS:
        return f"it holds {values.dtype.name}, which is no weight"
    reason = _readers_reason(tensor)
    if reason:
        return reason
    if not np.isfinite(values.astype(np.float32, copy=False)).all():
        return "it holds numbers that are not finite"
    return ""


def _readers_reason(tensor: gs.Tensor) -> str:
    """Return what stands against rounding a tensor in what reads it; empty if nothing does."""
    if match.fetched(tensor):
        return "the graph returns it"
    for node, index in _uses(tensor):
        if match.is_op(node, "QuantizeLinear"):
            return "it belongs to a quantized op"
        if node.domain in match.STANDARD and index in WEIGHTS.get(node.op, ()):
            continue
        if not _moves(node, index):
            return f"{node.op} takes it as {_role(node, index)}, not as a weight"
        for output in node.outputs:
            reason = _readers_reason(output)
            if reason:
                return reason
    return ""


def _role(node: gs.Node, index: int) -> str:
    return "a bias" if node.op in BIASED and index >= 2 else "values"


def _moves(node: gs.Node, index: int) -> bool:
    if node.domain not in match.STANDARD or index not in MOVES.get(node.op, ()):
        return False
    return node.op != "Cast" or np.dtype(_target(node)).kind == "f"


def _target(node: gs.Node) -> np.dtype:
    to = node.attrs.get("to")
    if isinstance(to, int):
        found = numpy_dtype(to)
        return np.dtype(bool) if found is None else found
    return np.dtype(bool) if to is None or isinstance(to, gs.Node.AttributeRef) else np.dtype(to)


def _uses(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    seen: set[int] = set()
    for node in tensor.outputs:
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield from ((node, i) for i, t in enumerate(node.inputs) if t is tensor)

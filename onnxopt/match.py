"""The words that rules use to look at a graph, and the two that change it safely.

A tensor's `outputs` are the nodes that read it, those in If, Loop and Scan bodies included; its
`inputs` the node that makes it. Both may lie in another graph than the one at hand: `sole` and
`here` ask for that.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt.model import ir
from onnxopt.model.tensors import Sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

STANDARD = (None, "", "ai.onnx")
"""How the default domain is spelled."""

RECURRENT = ("LSTM", "GRU", "RNN")

VALUE_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


MISSES: ContextVar[list[str] | None] = ContextVar("misses", default=None)
"""Where reasons of rules go while somebody asks for them; None while nobody does."""


def miss(reason: str) -> bool:
    """Say why a rule stands back from what it almost matched; returns False.

    For near misses only: the pattern is there and one guard stops it. `rewrite.apply` collects the
    reasons for `onnxopt explain`.
    """
    reasons = MISSES.get()
    if reasons is not None:
        reasons.append(reason)
    return False


def report(edit: str, reason: str) -> None:
    """Say why an edit with that id was taken back, as `miss` does for one that was not made."""
    reasons = MISSES.get()
    if reasons is not None:
        reasons.append(f"{edit}: {reason}")


def stamp(graph: gs.Graph) -> None:
    """Note on nodes which graph they are in, and on tensors whether a graph returns them.

    `rewrite.apply` does this before any rule runs; code that edits graphs by itself calls it
    before it uses `sole`, `here` or `fetched`.
    """
    for _, inner in ir.nested(graph):
        for node in inner.nodes:
            node.owner = inner  # type: ignore[attr-defined]
        for tensor in inner.outputs:
            tensor.fetched = True  # type: ignore[attr-defined]


def is_op(node: gs.Node | None, *ops: str) -> bool:
    """Whether a node is one of these standard ops."""
    return node is not None and node.op in ops and node.domain in STANDARD


def here(graph: gs.Graph, node: gs.Node | None) -> bool:
    """Whether a node is in this very graph, not in one around or inside it."""
    return node is not None and getattr(node, "owner", None) is graph


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that makes a tensor; None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def fetched(tensor: gs.Tensor) -> bool:
    """Whether a graph returns the tensor, so that its name and value must stay."""
    return bool(getattr(tensor, "fetched", False))


def sole(graph: gs.Graph, tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """Return the node that makes a tensor if only one input of one node reads it.

    None if the node is not one of `ops`, belongs to another graph or domain, has further outputs
    in use, or if anybody else sees the tensor: another node, a body, or the caller.
    """
    node = producer(tensor)
    if node is None or not here(graph, node) or (ops and not is_op(node, *ops)):
        return None
    if len(tensor.outputs) != 1 or fetched(tensor):
        return None
    others = (t for t in node.outputs if t is not tensor)
    if any(t.outputs or fetched(t) for t in others):
        return None
    return node


def sole_reader(graph: gs.Graph, tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """Return the only node that reads a tensor, if it is one of `ops` and in this graph."""
    if len(tensor.outputs) != 1 or fetched(tensor):
        return None
    node = tensor.outputs[0]
    return node if here(graph, node) and (not ops or is_op(node, *ops)) else None


def constant(tensor: gs.Tensor) -> np.ndarray | None:
    """Return the values of a constant: an initializer that nobody can override, or a Constant node.

    None for anything that a caller feeds or a node computes, and for sparse tensors. The array
    must not be written to.
    """
    if isinstance(tensor, gs.Constant):
        return None if isinstance(tensor._values, Sparse) else tensor.values
    node = producer(tensor)
    if node is None or not is_op(node, "Constant"):
        return None
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, gs.Constant):
            return constant(value)
        if name in VALUE_ATTRIBUTES and not isinstance(value, gs.Node.AttributeRef):
            return np.asarray(value, VALUE_ATTRIBUTES[name])
    return None


def filled(tensor: gs.Tensor) -> np.ndarray | None:
    """Return the values of a constant, or of one value spread over a constant shape.

    Expand of a single element, and ConstantOfShape, are left in the graph where folding them would
    make the file grow; a rule that absorbs them may read them. The array takes no memory.
    """
    values = constant(tensor)
    if values is not None:
        return values
    node = producer(tensor)
    if is_op(node, "Expand"):
        value, shape = (constant(t) for t in node.inputs)  # type: ignore[union-attr]
    elif is_op(node, "ConstantOfShape"):
        held = node.attrs.get("value")  # type: ignore[union-attr]
        value = constant(held) if isinstance(held, gs.Constant) else np.zeros(1, np.float32)
        shape = constant(node.inputs[0])  # type: ignore[union-attr]
    else:
        return None
    if value is None or shape is None or value.size != 1:
        return None
    whole = [int(d) for d in shape.reshape(-1)]
    if any(d < 0 for d in whole) or len(whole) < (value.ndim if is_op(node, "Expand") else 0):
        return None
    return np.broadcast_to(value.reshape(()), whole)


def quantized(source: gs.Tensor, result: gs.Tensor) -> bool:
    """Whether what stands between two tensors belongs to a quantized op, which must stay whole."""
    if is_op(producer(source), "DequantizeLinear"):
        return True
    return any(is_op(reader, "QuantizeLinear") for reader in result.outputs)


def constants(tensors: Sequence[gs.Tensor]) -> list[np.ndarray] | None:
    """Return the values of all these tensors, None unless all are constants."""
    values = [constant(t) for t in tensors]
    return None if any(v is None for v in values) else [v for v in values if v is not None]


def scalar(tensor: gs.Tensor) -> float | int | bool | None:
    """Return the only element of a constant, None if it is not one or has more."""
    values = constant(tensor)
    return values.reshape(-1)[0].item() if values is not None and values.size == 1 else None


def integers(node: gs.Node, index: int, name: str) -> list[int] | None:
    """Return a list of integers that is an attribute in old opsets and an input in new ones.

    None if it is absent or not constant: ask `given` to tell the two apart.
    """
    value = node.attrs.get(name)
    if isinstance(value, list):
        return [int(v) for v in value]
    if given(node, index):
        values = constant(node.inputs[index])
        return None if values is None else [int(v) for v in values.reshape(-1)]
    return None


def given(node: gs.Node, index: int) -> bool:
    """Whether a node has that optional input."""
    return len(node.inputs) > index and bool(node.inputs[index].name)


def attribute(node: gs.Node, name: str, default: Any) -> Any:
    """Return an attribute, or its default; a reference to a function's attribute is returned as is.

    A rule that meets an `AttributeRef` does not know the value and has to stand back; comparing
    it with any number is False, which makes most guards do so by themselves.
    """
    return node.attrs.get(name, default)


def replace(old: gs.Tensor, new: gs.Tensor) -> bool:
    """Make all readers of `old` read `new`; False, and nothing done, if a graph returns `old`."""
    if fetched(old):
        return False
    for node in list({id(n): n for n in old.outputs}.values()):
        for i, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[i] = new
    return True


def insert(graph: gs.Graph, node: gs.Node) -> gs.Node:
    """Add a node to a graph; order does not matter, export sorts."""
    node.owner = graph  # type: ignore[attr-defined]
    graph.nodes.append(node)
    return node


def remove(node: gs.Node) -> None:
    """Detach a node and its bodies; `rewrite.apply` then drops it from its graph."""
    for _, body in ir.bodies(node):
        for _, inner in ir.nested(body):
            for n in inner.nodes:
                n.inputs = []
                n.removed = True  # type: ignore[attr-defined]
    node.inputs = []
    node.outputs = []
    node.removed = True  # type: ignore[attr-defined]

"""Words about arithmetic with one constant number, which the rules for activations share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BROADCASTS = 7
"""The opset from which on arithmetic broadcasts by itself, not by attributes."""

SINGLE = (np.float16, np.float32)
"""Types that onnxruntime has all activations for; float64 it lacks."""

FLOATS = (np.float16, np.float32, np.float64)

SHARED = 4096
"""Bytes; larger constants are not written anew while others read them."""

LARGEST = float(np.finfo(np.float32).max)
"""What Clip's absent bounds are."""


def number(constant: gs.Tensor, tensor: gs.Tensor) -> float | None:
    """Return the value of a constant of one float that does not widen what it is combined with."""
    values = match.constant(constant)
    if values is None or values.size != 1 or values.dtype not in FLOATS:
        return None
    if values.ndim:
        rank = shapes.dims(tensor)
        if rank is None or len(rank) < values.ndim:
            return None
    return float(values.reshape(-1)[0])


def kind(*tensors: gs.Tensor) -> np.dtype | None:
    """Return the type that tensors of one type have, as far as one of them tells it."""
    for tensor in tensors:
        values = match.constant(tensor)
        found = shapes.dtype(tensor) if values is None else values.dtype
        if found is not None:
            return found
    return None


def spare(constant: gs.Tensor) -> bool:
    """Whether another constant may come in the place of this without making the file grow."""
    values = match.constant(constant)
    alone = len(constant.outputs) == 1 and not match.fetched(constant)
    return alone or (values is not None and values.nbytes <= SHARED)


def close(value: float, target: float, dtype: np.dtype) -> bool:
    """Whether a constant is meant to be that value: equal but for its rounding, or its digits."""
    slack = 5e-4 if dtype == np.float16 else 1e-6
    return abs(value - target) <= slack * abs(target)


def scaled(node: gs.Node | None) -> tuple[gs.Tensor, float] | None:
    """Return x and k of a node that computes x * k: Mul or Div with one number, or Neg."""
    if match.is_op(node, "Neg"):
        return node.inputs[0], -1.0  # type: ignore[union-attr]
    if node is None or not match.is_op(node, "Mul", "Div"):
        return None
    left, right = node.inputs
    k = number(right, left)
    if k is not None and k and node.op == "Div":
        return left, 1.0 / k
    if k is not None and node.op == "Mul":
        return left, k
    k = number(left, right) if node.op == "Mul" else None
    return None if k is None else (right, k)


def shifted(node: gs.Node | None) -> tuple[gs.Tensor, float] | None:
    """Return x and b of a node that computes x + b: Add or Sub with one number."""
    if node is None or not match.is_op(node, "Add", "Sub"):
        return None
    left, right = node.inputs
    b = number(right, left)
    if b is not None:
        return left, b if node.op == "Add" else -b
    b = number(left, right) if node.op == "Add" else None
    return None if b is None else (right, b)


def bounds(graph: gs.Graph, clip: gs.Node) -> tuple[float, float] | None:
    """Return what a Clip clips to; None if that is not constant."""
    found: list[float] = []
    for index, (name, default) in enumerate((("min", -LARGEST), ("max", LARGEST)), 1):
        value: object = default
        if graph.opset < 11:
            value = match.attribute(clip, name, default)
        elif match.given(clip, index):
            value = match.scalar(clip.inputs[index])
        if not isinstance(value, (float, int)):
            return None
        found.append(float(value))
    return found[0], found[1]


def constant(name: str, value: float, dtype: np.dtype) -> gs.Constant:
    """Return a new constant of rank 0."""
    return ir.Constant(name, np.array(value, dtype))


def finish(graph: gs.Graph, old: gs.Node, new: gs.Node) -> bool:
    """Let a new node make what an old one made, drop that and what only it read; returns True."""
    out, above = old.outputs[0], list(old.inputs)
    match.remove(old)
    new.outputs = [out]
    match.insert(graph, new)
    for tensor in above:
        discard(graph, tensor)
    return True


def discard(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """Drop the nodes that make a tensor which nobody reads any more, and so on upwards."""
    stack = [tensor]
    while stack:
        node = match.producer(stack.pop())
        if node is None or not match.here(graph, node):
            continue
        if any(t.outputs or match.fetched(t) for t in node.outputs):
            continue
        stack.extend(node.inputs)
        match.remove(node)


def step(graph: gs.Graph, op: str, name: str, like: gs.Tensor, *inputs: gs.Tensor) -> gs.Tensor:
    """Add a node whose output has the type and shape of a tensor; return that output."""
    out = ir.Variable(name)
    shapes.note(out, shapes.dtype(like), shapes.dims(like))
    match.insert(graph, ir.Node(op, name, inputs=list(inputs), outputs=[out]))
    return out

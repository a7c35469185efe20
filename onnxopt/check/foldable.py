"""What is the same in every run, and could stand in the file without making it larger.

A node could be replaced by its value if the value takes no more bytes than what goes with the node:
credit(node) = its own bytes + shares of what it reads: bytes of constants, credits of nodes, each
by its number of readers. That is how `clean` reckons, in short.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from onnxopt.check import types
from onnxopt.check.finding import grouped
from onnxopt.check.subject import STANDARD, Scope, bodies, is_op, outside_functions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Subject

RANDOM = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
    "Multinomial", "Dropout",
)  # fmt: skip

KEPT = (
    "Constant", "Identity", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", *RANDOM,
)  # fmt: skip
"""Ops whose folding would undo quantization or freeze chance, or that other rules look at."""

NODE = 60
"""Bytes that a node takes in a file, about."""

FREE = 48
"""Bytes; a constant of that size takes no more than the node that makes it."""


def foldable(subject: Subject) -> Iterator[tuple[str, str]]:
    """A node computes the same in every run.

    It depends on constants alone, or on shapes that are fixed, so its result could stand in the
    file. Nothing is said of Q/DQ, nor where the result would be larger than what it is made from.
    `--fix` folds them.
    """
    found = []
    for scope in outside_functions(subject):
        steps = constant_nodes(subject)[id(scope)]
        inside = {id(n) for n in steps}
        gone = _affordable(subject, scope, steps)
        found += [
            (scope.label(node), f"this {node.op_type} gives the same in every run")
            for node in steps
            if id(node) in gone
        ]
        for node in scope.nodes:
            if is_op(node, "If") and node.input and _fixed(subject, scope, node.input[0], inside):
                found.append((scope.label(node), "this If takes the same branch in every run"))
    yield from grouped(found, "nodes compute the same in every run")


@lru_cache(maxsize=1)
def constant_nodes(subject: Subject) -> dict[int, tuple[onnx.NodeProto, ...]]:
    """Return the nodes that give the same in every run, by the id of their graph, in its order."""
    return {id(scope): _constant_nodes(subject, scope) for scope in outside_functions(subject)}


def _constant_nodes(subject: Subject, scope: Scope) -> tuple[onnx.NodeProto, ...]:
    known = types.of(subject)
    inside: set[int] = set()
    found = []
    for node in scope.nodes:
        if node.domain not in STANDARD or node.op_type in KEPT or any(bodies(node)):
            continue
        inputs = [n for n in node.input if n]
        settled = is_op(node, "Shape", "Size") and known.kind(scope, inputs[0])[1] is not None
        if settled or (inputs and all(_fixed(subject, scope, n, inside) for n in inputs)):
            inside.add(id(node))
            found.append(node)
    return tuple(found)


def _fixed(subject: Subject, scope: Scope, name: str, inside: set[int]) -> bool:
    """Whether a tensor is the same in every run: a constant, or what such nodes make."""
    maker = scope.makers.get(name)
    while is_op(maker, "Identity"):
        name = maker.input[0] if maker is not None else ""
        maker = scope.makers.get(name)
    return id(maker) in inside or subject.constant(scope, name) is not None


def _affordable(subject: Subject, scope: Scope, steps: tuple[onnx.NodeProto, ...]) -> set[int]:
    """Return the ids of the nodes that can go without the file growing."""
    inside = {id(n) for n in steps}
    credit = _credits(subject, scope, steps)
    kept: set[int] = set()
    for node in reversed(steps):
        outputs = [o for o in node.output if o]
        wanted = [
            o
            for o in outputs
            if scope.seen(o) or any(id(r) not in inside or id(r) in kept for r in scope.readers[o])
        ]
        sizes = [types.of(subject).nbytes(scope, o) for o in wanted]
        returned = any(o in scope.outputs for o in outputs)
        cost = sum(max(0, size - FREE) for size in sizes if size is not None)
        if returned or None in sizes or cost > credit[id(node)]:
            kept.add(id(node))
    return inside - kept


def _credits(subject: Subject, scope: Scope, steps: tuple[onnx.NodeProto, ...]) -> dict[int, float]:
    """Return the bytes that would go with each node, by its id."""
    inside = {id(n) for n in steps}
    credit: dict[int, float] = {}
    parts: dict[str, int] = {}
    for node in steps:
        credit[id(node)] = NODE
        for name in set(filter(None, node.input)):
            if name not in parts:
                parts[name] = _shares(scope, name, inside)
            if not parts[name]:
                continue
            tensor = subject.constant(scope, name)
            if tensor is not None:
                goes: float = subject.size(tensor)
            else:
                goes = credit.get(id(scope.makers.get(name)), 0.0)
            credit[id(node)] += goes / parts[name]
    return credit


def _shares(scope: Scope, name: str, inside: set[int]) -> int:
    """Return how many nodes share a tensor that goes with them; 0 if others keep it."""
    readers = {id(r) for r in scope.readers[name]}
    kept = scope.seen(name) or not scope.defines(name) or readers - inside
    return 0 if kept else len(readers)

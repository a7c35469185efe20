"""OPT2xx, first part: what the exact passes would take out of the graph."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from onnxopt.check import types
from onnxopt.check.finding import Level, Rule, grouped
from onnxopt.check.foldable import RANDOM, constant_nodes, foldable
from onnxopt.check.subject import STANDARD, Scope, attribute, bodies, is_op, outside_functions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Subject

WORTH = 200
"""Repeated constants are worth a word from this part of the file on: zero points mostly are not."""

SMALL = 64
"""Bytes; repeated constants below are not worth a word."""


def unfused_batchnorm(subject: Subject) -> Iterator[tuple[str, str]]:
    """A BatchNormalization follows a Conv, ConvTranspose or Gemm that could absorb it.

    In inference it is a factor and an offset, which fold into the layer's weights. onnxruntime does
    that at each load; most other runtimes pay for it in every run. `--fix` folds it.
    """
    found = []
    for scope in outside_functions(subject):
        for node in scope.nodes:
            if not is_op(node, "BatchNormalization") or len(node.input) < 5:
                continue
            if attribute(node, "training_mode", 0) or any(node.output[1:]):
                continue
            layer = scope.sole(node.input[0], "Conv", "ConvTranspose", "Gemm")
            fixed = layer is not None and _fixed(subject, scope, layer, node)
            if layer is not None and fixed:
                found.append((scope.label(node), f"could be folded into {scope.label(layer)}"))
    yield from grouped(found, "BatchNormalizations could be folded into the layers before them")


def dead_node(subject: Subject) -> Iterator[tuple[str, str]]:
    """Nobody reads what a node makes.

    onnxruntime keeps such nodes and runs them. `--fix` takes them out.
    """
    found = []
    for scope in outside_functions(subject):
        dead: set[int] = set()
        for index in reversed(range(len(scope.nodes))):
            node = scope.nodes[index]
            outputs = [o for o in node.output if o]
            if outputs and not any(
                scope.seen(o) or any(id(r) not in dead for r in scope.readers[o]) for o in outputs
            ):
                dead.add(id(node))
                found.append((scope.label(node), f"nobody reads what this {node.op_type} makes"))
    yield from grouped(found[::-1], "nodes make what nobody reads")


def repeated_node(subject: Subject) -> Iterator[tuple[str, str]]:
    """A node computes what another one has computed already.

    The same operator with the same attributes on the same inputs. `--fix` keeps one.
    """
    found = []
    for scope in outside_functions(subject):
        first: dict[tuple[object, ...], onnx.NodeProto] = {}
        same: dict[str, str] = {}
        constant = {id(n) for n in constant_nodes(subject)[id(scope)]}
        for node in scope.nodes:
            if not node.input or node.op_type in RANDOM or any(bodies(node)):
                continue
            if id(node) in constant or node.domain not in STANDARD:
                continue
            inputs = tuple(same.get(n, n) for n in node.input)
            attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
            key = (node.op_type, inputs, tuple(map(bool, node.output)), *attributes)
            twin = first.setdefault(key, node)
            if twin is not node and not any(o in scope.outputs for o in node.output):
                same.update(zip(node.output, twin.output, strict=True))
                found.append((scope.label(node), f"computes the same as {scope.label(twin)}"))
    yield from grouped(found, "nodes compute what others have computed already")


def duplicate_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """The file holds the same weight more than once.

    Tied embeddings and shared layers are often written out twice. `--fix` keeps one.
    """
    sizes: dict[tuple[object, ...], list[tuple[str, onnx.TensorProto]]] = {}
    for scope, name, tensor in subject.constants():
        size = subject.size(tensor)
        if size >= SMALL and not scope.path and name not in subject.overridable:
            key = (tensor.data_type, tuple(tensor.dims))
            sizes.setdefault(key, []).append((name, tensor))
    seen: dict[tuple[object, ...], str] = {}
    found, spared = [], 0
    for kind, tensors in sizes.items():
        for name, tensor in tensors if len(tensors) > 1 else ():
            values = subject.values(tensor)
            if values is None:
                continue
            digest = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
            same = (*kind, digest)
            if same in seen:
                spared += subject.size(tensor)
                found.append((name, f"holds the same as {seen[same]}"))
            seen.setdefault(same, name)
    if spared * WORTH >= subject.nbytes:
        yield from grouped(found, f"weights, {spared:,} bytes in all, are in the file already")


def unused_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """Nobody reads a weight.

    It only makes the file larger. `--fix` drops it.
    """
    found = []
    for scope in subject.scopes:
        for name, tensor in scope.held.items():
            fed = not scope.path and name in subject.overridable
            if not fed and not scope.readers[name] and not scope.seen(name):
                found.append(
                    (scope.path + name, f"nobody reads its {subject.size(tensor):,} bytes")
                )
    yield from grouped(found, "weights are read by nobody")


def no_op(subject: Subject) -> Iterator[tuple[str, str]]:
    """A node hands on what it gets.

    Identity, Dropout in inference, a Cast to the same type, a Reshape or Expand to the same shape,
    a Transpose that moves nothing. `--fix` takes them out where no name of the interface depends on
    them.
    """
    found = []
    for scope in outside_functions(subject):
        for node in scope.nodes:
            if not node.input or not _hands_on(subject, scope, node):
                continue
            ends = scope.seen(node.output[0]) and (
                node.input[0] not in scope.makers or scope.seen(node.input[0])
            )
            if not ends:
                found.append((scope.label(node), f"this {node.op_type} hands on what it gets"))
    yield from grouped(found, "nodes hand on what they get")


def _hands_on(subject: Subject, scope: Scope, node: onnx.NodeProto) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        return len(node.input) < 3 and not any(node.output[1:])
    if is_op(node, "Transpose"):
        perm = attribute(node, "perm", None)
        return isinstance(perm, list) and bool(perm) and perm == sorted(perm)
    if is_op(node, "Cast", "CastLike", "Reshape", "Expand"):
        return _unchanged(types.of(subject), scope, node)
    return False


def _unchanged(known: types.Types, scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether what comes out has the type and shape of what went in."""
    (old, before), (new, after) = (known.kind(scope, n) for n in (node.input[0], node.output[0]))
    if old != new or not old:
        return False
    return is_op(node, "Cast", "CastLike") or (before is not None and before == after)


def _fixed(subject: Subject, scope: Scope, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Whether all weights of a layer and of what follows it are constants that can be changed."""
    tensors = [subject.constant(scope, n) for n in (*layer.input[1:], *norm.input[1:]) if n]
    return all(t is not None and subject.values(t) is not None for t in tensors)


RULES = (
    Rule("OPT201", Level.WARNING, unfused_batchnorm, fixable=True),
    Rule("OPT202", Level.WARNING, foldable, fixable=True),
    Rule("OPT203", Level.WARNING, dead_node, fixable=True),
    Rule("OPT204", Level.WARNING, duplicate_weight, fixable=True),
    Rule("OPT205", Level.WARNING, unused_weight, fixable=True),
    Rule("OPT206", Level.WARNING, no_op, fixable=True),
    Rule("OPT212", Level.WARNING, repeated_node, fixable=True),
)

"""OPT2xx, first part: what the exact passes would take out of the graph."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule, grouped
from onnxopt.check.subject import STANDARD, Scope, attribute, bodies, is_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Subject

RANDOM = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
    "Multinomial", "Dropout",
)  # fmt: skip

KEPT = (
    "Constant", "Identity", "ConstantOfShape", "Expand", "Tile", "QuantizeLinear",
    "DequantizeLinear", "DynamicQuantizeLinear", *RANDOM,
)  # fmt: skip
"""Ops whose folding would make the file grow, undo quantization, or freeze chance."""

SMALL = 64
"""Bytes; repeated constants below are not worth a word."""


def unfused_batchnorm(subject: Subject) -> Iterator[tuple[str, str]]:
    """A BatchNormalization follows a Conv, ConvTranspose or Gemm that could absorb it.

    In inference it is a factor and an offset, which fold into the layer's weights. onnxruntime does
    that at each load; most other runtimes pay for it in every run. `--fix` folds it.
    """
    found = []
    for scope in _outside_functions(subject):
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


def foldable(subject: Subject) -> Iterator[tuple[str, str]]:
    """A node computes the same in every run, from constants alone.

    Its result could stand in the file. Of those whose result would be larger than what they are
    made from (Expand, Tile, ConstantOfShape), and of Q/DQ, nothing is said. `--fix` folds them.
    """
    found = []
    for scope in _outside_functions(subject):
        constant: set[str] = set()
        for node in scope.nodes:
            if node.domain not in STANDARD or node.op_type in KEPT or any(bodies(node)):
                continue
            inputs = [n for n in node.input if n]
            if inputs and all(
                n in constant or subject.constant(scope, n) is not None for n in inputs
            ):
                constant.update(node.output)
                if not set(node.output) & set(scope.outputs):
                    found.append((scope.label(node), f"this {node.op_type} reads only constants"))
    yield from grouped(found, "nodes compute the same in every run")


def dead_node(subject: Subject) -> Iterator[tuple[str, str]]:
    """Nobody reads what a node makes.

    onnxruntime keeps such nodes and runs them. `--fix` takes them out.
    """
    found = []
    for scope in _outside_functions(subject):
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

    Identity, Dropout in inference, a Cast to the same type, a Transpose that moves nothing. `--fix`
    takes them out where no name of the interface depends on them.
    """
    found = []
    for scope in _outside_functions(subject):
        main = None if scope.outer else subject.proto.graph
        types = {} if main is None else {v.name: _type(v) for v in (*main.input, *main.value_info)}
        for node in scope.nodes:
            if not node.input or not _hands_on(node, types):
                continue
            ends = scope.seen(node.output[0]) and (
                node.input[0] not in scope.makers or scope.seen(node.input[0])
            )
            if not ends:
                found.append((scope.label(node), f"this {node.op_type} hands on what it gets"))
    yield from grouped(found, "nodes hand on what they get")


def _hands_on(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        return len(node.input) < 3 and not any(node.output[1:])
    if is_op(node, "Cast"):
        return attribute(node, "to", 0) == types.get(node.input[0], -1)
    if is_op(node, "Transpose"):
        perm = attribute(node, "perm", None)
        return isinstance(perm, list) and bool(perm) and perm == sorted(perm)
    return False


def _type(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _fixed(subject: Subject, scope: Scope, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Whether all weights of a layer and of what follows it are constants that can be changed."""
    tensors = [subject.constant(scope, n) for n in (*layer.input[1:], *norm.input[1:]) if n]
    return all(t is not None and subject.values(t) is not None for t in tensors)


def _outside_functions(subject: Subject) -> Iterator[Scope]:
    """Yield graphs and bodies; what a function holds depends on who calls it."""
    for scope in subject.scopes:
        outermost = scope
        while outermost.outer is not None:
            outermost = outermost.outer
        if not outermost.path:
            yield scope


RULES = (
    Rule("OPT201", Level.WARNING, unfused_batchnorm, fixable=True),
    Rule("OPT202", Level.WARNING, foldable, fixable=True),
    Rule("OPT203", Level.WARNING, dead_node, fixable=True),
    Rule("OPT204", Level.WARNING, duplicate_weight, fixable=True),
    Rule("OPT205", Level.WARNING, unused_weight, fixable=True),
    Rule("OPT206", Level.WARNING, no_op, fixable=True),
)

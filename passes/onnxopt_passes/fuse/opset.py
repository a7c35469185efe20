"""The model in a newer opset, where that is safe; ops of that opset are then open to the rules.

onnx's version converter says what becomes of each node. Only nodes that it had to change are taken
over, in bodies too: the others keep their names, doc strings and metadata. Inputs and outputs stay
as they are.

Left as they are, with the reason: models with functions of their own, which the converter drops,
and those with an op that it cannot convert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import version_converter

from onnxopt import match
from onnxopt.model import Exported, Model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.base import Context


SCAN = 9
"""The opset from which on Scan is what it is now: before, it went over a batch as well."""


def raise_opset(model: Model, ctx: Context, version: int) -> int:
    """Raise the default opset of a model.

    Args:
        model: Its graph is replaced.
        ctx: Asked before the edit, `opset@<version>`; told why it was not made.
        version: The opset to raise it to; one that is not newer changes nothing.

    Returns:
        1 if it was raised, else 0.
    """
    if version <= model.opset:
        return 0
    edit = f"opset@{version}"
    if not ctx.allow(edit):
        return 0
    before = model.export()
    reason = _obstacle(before.proto, model.opset, version)
    if not reason:
        try:
            after = _merged(
                before.proto, version_converter.convert_version(before.proto, version), version
            )
        except (RuntimeError, ValueError) as e:
            reason = f"onnx cannot convert it: {' '.join(str(e).split())[:160]}"
    if reason:
        ctx.retract(edit)
        match.report(edit, reason)
        ctx.untouched[edit] = reason
        return 0
    fresh = Model.from_exported(Exported(after, before.weights), model.path)
    model.graph, model.header = fresh.graph, fresh.header
    return 1


def _obstacle(proto: onnx.ModelProto, current: int, version: int) -> str:
    """Return why a model cannot be converted as a whole; an empty text if it may."""
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        return f"this onnx knows opsets up to {newest}"
    if proto.functions:
        return "it has functions of its own, which the converter drops"
    if current < SCAN and any(node.op_type == "Scan" for node in _nodes(proto.graph)):
        return f"it has a Scan of before opset {SCAN}, which the converter takes for one of today's"
    return ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _merged(source: onnx.ModelProto, converted: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the source with the nodes that the converter changed, and the new opset.

    Raises:
        ValueError: The converter gave two tensors one name.
    """
    merged = onnx.ModelProto()
    merged.CopyFrom(source)
    _merge(merged.graph, converted.graph)
    if not _distinct(merged.graph, frozenset()):
        raise ValueError("two tensors have one name")
    for entry in merged.opset_import:
        if entry.domain in match.STANDARD:
            entry.version = version
    return merged


def _merge(graph: onnx.GraphProto, converted: onnx.GraphProto) -> None:
    """Take the nodes that the converter changed over into a graph, and into the bodies in it."""
    known = {_outputs(node): node for node in graph.node}
    nodes: list[onnx.NodeProto] = []
    for node in converted.node:
        old = known.get(_outputs(node))
        if old is not None and _same(old, node):
            bodies = {a.name: a.g for a in node.attribute if a.HasField("g")}
            for attribute in old.attribute:
                if attribute.HasField("g"):
                    _merge(attribute.g, bodies[attribute.name])
            nodes.append(old)
        elif old is None and node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _outputs(node: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(node.output)


def _same(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Whether two nodes compute the same; bodies and absent inputs at the end do not count."""
    ops = [(n.op_type, n.domain if n.domain != "ai.onnx" else "") for n in (one, other)]
    inputs = ["\0".join(n.input).rstrip("\0") for n in (one, other)]
    sides = [
        sorted(
            a.name.encode() if a.HasField("g") else a.SerializeToString(deterministic=True)
            for a in n.attribute
        )
        for n in (one, other)
    ]
    return ops[0] == ops[1] and inputs[0] == inputs[1] and sides[0] == sides[1]


def _distinct(graph: onnx.GraphProto, outer: frozenset[str]) -> bool:
    """Whether no tensor of a graph has the name of another, or of one in the graphs around it."""
    declared = {v.name for v in graph.input}
    names = [*declared, *(t.name for t in graph.initializer if t.name not in declared)]
    names += [name for node in graph.node for name in node.output if name]
    own = frozenset(names)
    if len(own) < len(names) or own & outer:
        return False
    bodies = (a.g for node in graph.node for a in node.attribute if a.HasField("g"))
    return all(_distinct(body, own | outer) for body in bodies)

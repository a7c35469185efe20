"""The model in a newer opset, where that is safe; ops of that opset are then open to the rules.

onnx's version converter says what becomes of each node. Only nodes that it had to change are taken
over: the others keep their names, doc strings and metadata. Inputs and outputs stay as they are.

Left as they are, with the reason: models with bodies or functions, which the converter does not
enter, and those with an op that it cannot convert.
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
    reason = _obstacle(before.proto, version)
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


def _obstacle(proto: onnx.ModelProto, version: int) -> str:
    """Return why a model cannot be converted as a whole; an empty text if it may."""
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        return f"this onnx knows opsets up to {newest}"
    if proto.functions:
        return "it has functions of its own, which the converter does not enter"
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(a.type in kinds for node in proto.graph.node for a in node.attribute):
        return "it has If, Loop or Scan bodies, which the converter does not enter"
    return ""


def _merged(source: onnx.ModelProto, converted: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the source with the nodes that the converter changed, and the new opset.

    Raises:
        ValueError: The converter gave two tensors one name.
    """
    merged = onnx.ModelProto()
    merged.CopyFrom(source)
    known = {_outputs(node): node for node in source.graph.node}
    del merged.graph.node[:]
    for node in converted.graph.node:
        old = known.get(_outputs(node))
        if old is not None and _same(old, node):
            merged.graph.node.append(old)
        elif old is None and node.op_type == "Constant" and node.attribute[0].name == "value":
            merged.graph.initializer.append(node.attribute[0].t)
            merged.graph.initializer[-1].name = node.output[0]
        else:
            merged.graph.node.append(node)
    names = list(_defined(merged.graph))
    if len(set(names)) < len(names):
        raise ValueError("two tensors have one name")
    for entry in merged.opset_import:
        if entry.domain in match.STANDARD:
            entry.version = version
    return merged


def _outputs(node: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(node.output)


def _same(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Whether two nodes compute the same; absent inputs at the end do not count."""
    ops = [(n.op_type, n.domain if n.domain != "ai.onnx" else "") for n in (one, other)]
    inputs = ["\0".join(n.input).rstrip("\0") for n in (one, other)]
    sides = [
        sorted(a.SerializeToString(deterministic=True) for a in n.attribute) for n in (one, other)
    ]
    return ops[0] == ops[1] and inputs[0] == inputs[1] and sides[0] == sides[1]


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the name of each tensor as often as it is defined."""
    declared = {v.name for v in graph.input}
    yield from declared
    yield from (t.name for t in graph.initializer if t.name not in declared)
    yield from (name for node in graph.node for name in node.output if name)

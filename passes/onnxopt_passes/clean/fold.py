"""op(constants) -> constant, computed by onnxruntime as the model would have.

All nodes that depend on nothing but constants form a region, and so does shape arithmetic that is
the same in every run (`shape_math.known`). It is run once, as one model, and the tensors that the
rest of the graph reads become constants.

Guards: standard ops that always give the same result, without bodies, on plain numbers; no
DequantizeLinear, whose folding undoes quantization. Sizes are known before anything runs, and no
intermediate is larger than `limit`. A tensor that a graph returns stays computed. Integer division
waits until its divisor is a constant without 0 and -1, either of which can end the process.

A fold may not grow the file (`budget`): ConstantOfShape, Expand, Tile or Range fold where the
result is small, or is reduced again within the region.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.layout import in_order
from onnxopt.rewrite import edit_id, sweep
from onnxopt_passes.clean import links
from onnxopt_passes.clean.budget import Step, affordable
from onnxopt_passes.clean.duplicates import RANDOM
from onnxopt_passes.clean.shape_math import known
from onnxopt_passes.clean.twin import Runner, Twin, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.shape_values import Elements
    from onnxopt_passes.clean.twin import Type

NEVER = RANDOM | {
    *("Constant", "DequantizeLinear", "If", "Loop", "Scan", "SequenceMap"),
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceLength", "SplitToSequence", "ConcatFromSequence", "Optional"),
    *("OptionalGetElement", "OptionalHasElement", "StringConcat", "StringNormalizer"),
    *("StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"),
}
"""Ops that are not run ahead."""


def fold(model: Model, ctx: Context, limit: int) -> int:
    """Replace what depends on constants only by its value.

    Args:
        model: The model; its tensors have been inferred.
        ctx: Asked before each edit.
        limit: The most bytes of one intermediate.
    """
    own = links.overridden(model)
    total = 0
    for path, root in links.roots(model):
        while made := _fold(model, root, _region(root, path, own), ctx, limit):
            total += made
    return total


def _region(root: gs.Graph, path: str, own: frozenset[str]) -> list[Step]:
    """Return the nodes that depend on constants only, producers first."""
    steps: list[Step] = []
    inside: set[int] = set()
    memo: dict[int, Elements] = {}
    for where, graph in ir.nested(root, path):
        if not inside and not any(_startable(n, memo) for n in graph.nodes):
            continue
        for node in in_order(graph):
            if node.domain not in match.STANDARD or node.op in own or not node.outputs:
                continue
            value = known(node.outputs[0], memo)
            if value is None and not _foldable(node, inside):
                continue
            steps.append(Step(node, where, graph, value))
            inside.update(id(t) for t in node.outputs if t.name)
    return steps


def _startable(node: gs.Node, memo: dict[int, Elements]) -> bool:
    """Whether a region can begin with a node; saves sorting graphs that have none."""
    if node.domain not in match.STANDARD or not node.outputs:
        return False
    return known(node.outputs[0], memo) is not None or _foldable(node, set())


def _foldable(node: gs.Node, inside: set[int]) -> bool:
    read = [t for t in node.inputs if t.name]
    if not read or node.op in NEVER or getattr(node, "unfoldable", False):
        return False
    if any(isinstance(v, gs.Node.AttributeRef) for v in node.attrs.values()):
        return False
    if any(True for _ in ir.bodies(node)):
        return False
    return all(id(t) in inside or values_of(t) is not None for t in read)


def _fold(model: Model, root: gs.Graph, steps: list[Step], ctx: Context, limit: int) -> int:
    """Replace what of a region can be; return how many nodes were."""
    if not steps:
        return 0
    twin = Twin(steps, root.opset, model.header.ir_version)
    types = twin.types() if twin.model.graph.nodes else {}
    steps = _computable(steps, types, limit)
    sizes = {key: dtype.itemsize * math.prod(shape) for key, (dtype, shape) in types.items()}
    sizes.update({id(s.node.outputs[0]): s.value.nbytes for s in steps if s.value is not None})
    pinned = frozenset(i for _, graph in ir.nested(root) for i in links.pinned(graph))
    chosen = affordable(steps, sizes, pinned)
    region = {id(s.node): s for s in steps}
    values = {id(s.node.outputs[0]): s.value for s in chosen if s.value is not None}
    computed = [s for s in chosen if s.value is None]
    values.update(Runner(model, root, region, types, ctx.threads).values(computed))
    return _replace(chosen, values, ctx)


def _computable(steps: Sequence[Step], types: dict[int, Type], limit: int) -> list[Step]:
    """Return the steps of which nothing is too large, or of a type that numpy has not."""
    outside: set[int] = set()
    result = []
    for step in steps:
        made = [t for t in step.node.outputs if t.name]
        if step.value is not None or (
            not any(id(t) in outside for t in step.node.inputs)
            and all(_small(types.get(id(t)), limit) for t in made)
            and _safe(step.node, types)
        ):
            result.append(step)
        else:
            outside.update(id(t) for t in made)
    return result


def _small(kind: Type | None, limit: int) -> bool:
    if kind is None:
        return False
    dtype, shape = kind
    plain = dtype.kind in "fiub" and dtype.isbuiltin == 1
    return plain and dtype.itemsize * math.prod(shape) <= limit


def _safe(node: gs.Node, types: dict[int, Type]) -> bool:
    """Whether a node cannot end the process: x / 0 and min / -1 of integers do on some CPUs."""
    if node.op not in ("Div", "Mod") or types[id(node.outputs[0])][0].kind not in "iu":
        return True
    divisor = match.constant(node.inputs[1])
    return divisor is not None and not np.isin(divisor, (0, -1)).any()


def _replace(steps: Sequence[Step], values: dict[int, np.ndarray], ctx: Context) -> int:
    """Make readers read the values; nodes that nothing reads any more go."""
    made = 0
    touched: dict[int, tuple[gs.Graph, list[gs.Node]]] = {}
    for step in steps:
        read = [t for t in step.node.outputs if t.outputs]
        if not all(id(t) in values for t in read):
            continue
        if not ctx.allow(edit_id("fold", step.path, step.node)):
            continue
        for tensor in read:
            links.redirect(tensor, ir.Constant(tensor.name, values[id(tensor)]))
        made += 1
        touched.setdefault(id(step.graph), (step.graph, []))[1].append(step.node)
    for graph, nodes in touched.values():
        sweep(graph, nodes)
    return made

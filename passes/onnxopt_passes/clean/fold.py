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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference

from onnxopt import match
from onnxopt.model import Model, ir
from onnxopt.model.interface import dims_of, numpy_dtype
from onnxopt.model.layout import in_order
from onnxopt.model.tensors import Sparse
from onnxopt.rewrite import edit_id, sweep
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.clean import links
from onnxopt_passes.clean.budget import Step, affordable
from onnxopt_passes.clean.constants import INITIALIZERS, stored
from onnxopt_passes.clean.duplicates import RANDOM
from onnxopt_passes.clean.shape_math import known

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxopt.base import Context
    from onnxopt.shapes import Elements

NEVER = RANDOM | {
    *("Constant", "DequantizeLinear", "If", "Loop", "Scan", "SequenceMap"),
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceLength", "SplitToSequence", "ConcatFromSequence", "Optional"),
    *("OptionalGetElement", "OptionalHasElement", "StringConcat", "StringNormalizer"),
    *("StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"),
}
"""Ops that are not run ahead."""

Type: TypeAlias = "tuple[np.dtype, tuple[int, ...]]"

SESSIONS = 64
"""How many models are run to find the nodes that onnxruntime cannot."""


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
    return all(id(t) in inside or _values(t) is not None for t in read)


def _values(tensor: gs.Tensor) -> Any:
    """Return the values of a constant as they are stored, None for anything but dense numbers."""
    if isinstance(tensor, gs.Constant):
        plain = tensor.dtype is not None and tensor.dtype != object
        return tensor._values if plain and not isinstance(tensor._values, Sparse) else None
    maker = match.producer(tensor)
    return stored(maker) if maker is not None else None


class Twin:
    """A model of its own that computes a region.

    Args:
        steps: The region, producers first; those whose value is known are constants in it.
        opset: The version of the default operator set.
        ir_version: That of the model.
    """

    def __init__(self, steps: Iterable[Step], opset: int, ir_version: int) -> None:
        self.of: dict[int, gs.Tensor] = {}
        nodes = []
        for step in steps:
            node = step.node
            if step.value is not None:
                out = node.outputs[0]
                self.of[id(out)] = ir.Constant(f"c{len(self.of)}", step.value)
                continue
            inputs = [self._read(t) for t in node.inputs]
            outputs = [self._made(t) for t in node.outputs]
            nodes.append(ir.Node(node.op, "", dict(node.attrs), inputs, outputs))
        graph = ir.Graph(nodes, [], [], "region", opset=opset)
        graph.rest, graph.shadows = None, frozenset()
        graph.initializers, graph.slots, graph.stale = [], [], []
        header = onnx.ModelProto(ir_version=max(ir_version, INITIALIZERS))
        header.opset_import.add(domain="", version=opset)
        self.model = Model(graph, header)

    def _read(self, tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return ir.Variable("")
        if id(tensor) not in self.of:
            self.of[id(tensor)] = ir.Constant(f"c{len(self.of)}", _values(tensor))
        return self.of[id(tensor)]

    def _made(self, tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return ir.Variable("")
        self.of[id(tensor)] = made = ir.Variable(f"t{len(self.of)}")
        return made

    def types(self) -> dict[int, Type]:
        """Return type and shape of each tensor whose size is known or bounded, by the original's id."""
        exported, names = self.model.export_named()
        try:
            proto = shape_inference.infer_shapes(exported.proto, data_prop=True)
        except (shape_inference.InferenceError, RuntimeError, ValueError):
            return {}
        inferred = {v.name: v.type.tensor_type for v in proto.graph.value_info}
        found: dict[int, Type] = {}
        for tensor in self.of.values():
            kind = _type(tensor, inferred.get(names.get(id(tensor), "")))
            if kind is not None:
                found[id(tensor)] = kind
        for node in self.model.graph.nodes:
            if node.op == "NonZero" and id(node.inputs[0]) in found:  # no more than all of them
                shape = found[id(node.inputs[0])][1]
                found[id(node.outputs[0])] = (np.dtype(np.int64), (len(shape), math.prod(shape)))
        return {key: found[id(t)] for key, t in self.of.items() if id(t) in found}

    def compute(self, wanted: dict[int, np.dtype], threads: int) -> dict[int, np.ndarray]:
        """Return the values of the tensors of these ids.

        Raises:
            CannotRun: onnxruntime cannot.
        """
        for key, dtype in wanted.items():
            self.of[key].dtype = dtype  # type: ignore[union-attr]
        self.model.graph.outputs = [self.of[key] for key in wanted]
        session = Session(self.model.export(), Settings(threads=threads))
        return dict(zip(wanted, session.run({}).values(), strict=True))


def _type(tensor: gs.Tensor, inferred: Any) -> Type | None:
    if isinstance(tensor, gs.Constant):
        return np.dtype(tensor.dtype), tuple(tensor.shape)
    dtype = numpy_dtype(inferred.elem_type) if inferred is not None else None
    if dtype is None or not inferred.HasField("shape"):
        return None
    shape = dims_of(inferred.shape)
    fixed = tuple(d for d in shape if isinstance(d, int))
    return (dtype, fixed) if len(fixed) == len(shape) else None


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
    values.update(_Runner(model, root, region, types, ctx.threads).values(computed))
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


class _Runner:
    """Computes values, and finds the nodes that onnxruntime cannot run."""

    def __init__(
        self,
        model: Model,
        root: gs.Graph,
        region: dict[int, Step],
        types: dict[int, Type],
        threads: int,
    ) -> None:
        self.version = model.header.ir_version
        self.opset = root.opset
        self.region = region
        self.types = types
        self.threads = threads
        self.sessions = 0

    def values(self, steps: Sequence[Step]) -> dict[int, np.ndarray]:
        """Return the outputs of these steps, by the tensor's id; those that fail are marked."""
        if not steps:
            return {}
        self.sessions += 1
        try:
            if self.sessions > SESSIONS:
                raise CannotRun("too many models have failed")
            return self._compute(steps)
        except CannotRun:
            if len(steps) > 1 and self.sessions <= SESSIONS:
                half = len(steps) // 2
                return self.values(steps[:half]) | self.values(steps[half:])
            for step in steps:
                step.node.unfoldable = True  # type: ignore[attr-defined]
            return {}

    def _compute(self, steps: Sequence[Step]) -> dict[int, np.ndarray]:
        wanted = {id(t): self.types[id(t)][0] for s in steps for t in s.node.outputs if t.outputs}
        twin = Twin(self._needed(steps), self.opset, self.version)
        found = twin.compute(wanted, self.threads)
        return {key: v for key, v in found.items() if v.dtype == wanted[key]}

    def _needed(self, steps: Sequence[Step]) -> list[Step]:
        """Return the steps that others depend on, themselves too, producers first."""
        needed: set[int] = set()
        stack = [s.node for s in steps]
        while stack:
            node = stack.pop()
            if id(node) in needed:
                continue
            needed.add(id(node))
            if self.region[id(node)].value is None:
                stack.extend(p for t in node.inputs for p in t.inputs if id(p) in self.region)
        return [s for key, s in self.region.items() if key in needed]


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

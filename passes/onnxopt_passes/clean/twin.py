"""Regions of a graph as models of their own, sized by inference and computed by onnxruntime."""

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
from onnxopt.model.tensors import Sparse
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.clean.constants import INITIALIZERS, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxopt_passes.clean.budget import Step

Type: TypeAlias = "tuple[np.dtype, tuple[int, ...]]"

SESSIONS = 64
"""How many models are run to find the nodes that onnxruntime cannot."""


def values_of(tensor: gs.Tensor) -> Any:
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
            self.of[id(tensor)] = ir.Constant(f"c{len(self.of)}", values_of(tensor))
        return self.of[id(tensor)]

    def _made(self, tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return ir.Variable("")
        self.of[id(tensor)] = made = ir.Variable(f"t{len(self.of)}")
        return made

    def types(self) -> dict[int, Type]:
        """Return type and shape of tensors with a known or bounded size, by id of the original."""
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
            self.of[key].dtype = dtype  # type: ignore[attr-defined]
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


class Runner:
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

"""A model run in stages over samples, for fits that go from layer to layer.

A layer is fitted to what the layers before it compute after they have been fitted themselves. Run
from the start for each layer, a model of n layers would take n runs a sample. Here each node runs
once: a stage runs the nodes that its tensors need and that have not run yet, and what later stages
need of a sample waits on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxopt import match
from onnxopt.model import Exported, ir
from onnxopt.model.layout import in_order, reads
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.spool import IN_MEMORY, Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model

DEPLOYED = Settings(optimize=True)
"""ORT_ENABLE_ALL: what is read are sums over many samples, and there are many samples."""

LEAST_IR = 8
"""IR version of the parts: their initializers need not be inputs, and they may have functions."""


class Stages:
    """A model whose main graph is run in stages.

    Between two stages weights may be replaced, and layers be given a bias; nodes must not be added,
    removed or rewired.

    Args:
        model: The model.
        wanted: For each stage, the tensors of the main graph to read.
        feeds: Inputs by name, a sample each; iterated once, by the first stage.
        settings: How parts are loaded.
        in_memory: Bytes between two stages that are kept in memory, beyond which they go to disk.
    """

    def __init__(
        self,
        model: Model,
        wanted: Sequence[Sequence[gs.Tensor]],
        feeds: Iterable[Mapping[str, Any]],
        settings: Settings = DEPLOYED,
        in_memory: int = IN_MEMORY,
    ) -> None:
        self._model, self._settings, self._in_memory = model, settings, in_memory
        self._wanted = [list(tensors) for tensors in wanted]
        self._main = {id(t) for n in model.graph.nodes for t in n.outputs}
        self._main |= {id(t) for t in model.graph.inputs}
        self._parts = self._cut_up()
        self._stage = 0
        self._waiting: Iterable[Any] = feeds
        self._held: list[gs.Tensor] | None = None

    def run(self) -> Iterator[list[np.ndarray]]:
        """Run the next stage; yield the values of its tensors, sample by sample.

        It has to be iterated to its end before the next one is run.

        Raises:
            CannotRun: onnxruntime cannot load or run the part, or a value that a part begins with
                is no tensor.
        """
        nodes, wanted = self._parts[self._stage], self._wanted[self._stage]
        later = self._needed_after(self._stage)
        part: _Part | None = None
        kept = Spool(self._in_memory)
        for values in map(self._begin, self._waiting):
            if part is None:
                part = _Part(self._model, nodes, [*wanted, *later], values, self._settings)
            values.update(part.run(values))
            kept.append([values.get(id(t)) for t in later])
            yield _taken(wanted, values)
        self._waiting, self._held = kept, later
        self._stage += 1

    def _begin(self, item: Any) -> dict[int, Any]:
        """Return the values that a sample starts with, by the ids of their tensors."""
        if self._held is not None:
            pairs = zip(self._held, item, strict=True)
            return {id(t): v for t, v in pairs if v is not None}
        found = {}
        for tensor in self._model.graph.inputs:
            if tensor.name in item:
                found[id(tensor)] = item[tensor.name]
            elif isinstance(tensor, ir.Overridable):
                found[id(tensor)] = tensor.default.values
        return found

    def _cut_up(self) -> list[list[gs.Node]]:
        """Return the nodes of each stage, in order."""
        order = in_order(self._model.graph)
        index = {id(n): i for i, n in enumerate(order)}
        done: set[int] = set()
        parts = []
        for tensors in self._wanted:
            found: set[int] = set()
            stack = [p for t in tensors for p in t.inputs]
            while stack:
                node = stack.pop()
                if id(node) in found or id(node) in done or id(node) not in index:
                    continue
                found.add(id(node))
                stack.extend(p for t in reads(node) for p in t.inputs)
            parts.append([order[i] for i in sorted(index[key] for key in found)])
            done |= {id(n) for n in parts[-1] if not match.is_op(n, "Constant")}
        return parts

    def _needed_after(self, stage: int) -> list[gs.Tensor]:
        """Return what later stages read of what is fed, or computed up to this one."""
        coming = [node for part in self._parts[stage + 1 :] for node in part]
        made = {id(t) for node in coming for t in node.outputs}
        found = [t for node in coming for t in reads(node)]
        found += [t for tensors in self._wanted[stage + 1 :] for t in tensors]
        return [
            t
            for key, t in {id(t): t for t in found}.items()
            if key in self._main and key not in made and match.constant(t) is None
        ]


def _taken(tensors: Sequence[gs.Tensor], values: dict[int, Any]) -> list[np.ndarray]:
    """Return what tensors hold, and forget all else, so that no two samples are held at a time."""
    known = [match.constant(t) for t in tensors]
    found = [values[id(t)] if v is None else v for t, v in zip(tensors, known, strict=True)]
    values.clear()
    return found


class _Part:
    """Some nodes of a model as a session.

    Args:
        model: The model.
        nodes: Which nodes, in order.
        wanted: What to read; what the nodes do not compute is left out.
        values: What one sample starts with; types and ranks are taken from there.
        settings: How it is loaded.
    """

    def __init__(
        self,
        model: Model,
        nodes: Sequence[gs.Node],
        wanted: Sequence[gs.Tensor],
        values: Mapping[int, Any],
        settings: Settings,
    ) -> None:
        exported, names = model.export_named()
        made = {id(t) for n in nodes for t in n.outputs if t.name}
        read = {id(t): t for n in nodes for t in reads(n)}
        self._inputs = {
            names[key]: key for key in read if key in values and key not in made and key in names
        }
        self._outputs = {names[id(t)]: id(t) for t in wanted if id(t) in made}
        self._session: Session | None = None
        if self._outputs:
            types = {name: _type(name, values[key]) for name, key in self._inputs.items()}
            cut = _cut(exported, {names[k] for k in made}, types, list(self._outputs))
            self._session = Session(cut, settings)

    def run(self, values: Mapping[int, Any]) -> dict[int, Any]:
        """Return what the part computes of one sample, by the ids of the tensors."""
        if self._session is None:
            return {}
        found = self._session.run({name: values[key] for name, key in self._inputs.items()})
        return {key: found[name] for name, key in self._outputs.items()}


def _type(name: str, value: Any) -> onnx.ValueInfoProto:
    if not isinstance(value, np.ndarray):
        raise CannotRun(f"{name!r} is no tensor, and a model cannot be cut there")
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * value.ndim)


def _cut(
    exported: Exported,
    made: set[str],
    inputs: Mapping[str, onnx.ValueInfoProto],
    outputs: Sequence[str],
) -> Exported:
    """Return the nodes that make these tensors as a model of its own."""
    source = exported.proto
    proto = onnx.ModelProto(ir_version=max(source.ir_version, LEAST_IR))
    proto.opset_import.extend(source.opset_import)
    proto.functions.extend(source.functions)
    graph = proto.graph
    graph.name = "part"
    graph.node.extend(n for n in source.graph.node if made.intersection(n.output))
    used = _names(graph)
    initializers = [t for t in source.graph.initializer if t.name in used - inputs.keys()]
    graph.initializer.extend(initializers)
    graph.input.extend(inputs.values())
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    held = {t.name for t in initializers}
    return Exported(proto, {k: w for k, w in exported.weights.items() if k in held})


def _names(graph: onnx.GraphProto) -> set[str]:
    """Return all names that nodes read, those in their bodies included."""
    found: set[str] = set()
    stack = [graph]
    while stack:
        current = stack.pop()
        found.update(v.name for v in current.output)
        for node in current.node:
            found.update(node.input)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)
    return found

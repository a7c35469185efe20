"""Which branches of If nodes run on given inputs.

A probe is the model with one more output a branch, 1 where it ran. Every If gives flags for its
two branches and hands those of the Ifs inside them out, zeros for the branch that was not taken;
flags in bodies of Loop and Scan become scan outputs, summed.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from onnxopt import trial
from onnxopt.match import STANDARD
from onnxopt.model import Exported

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxopt.model import Port
    from onnxopt.runtime import Session

PREFIX = "onnxopt.reached."

Flag = tuple[str, str]
"""(path of a branch, name of the tensor that says whether it ran)"""

MOST_TRIALS = 256
MOST_VALUES = 24


class Probe:
    """A model that tells which of its branches ran.

    Attributes:
        exported: The instrumented model.
        branches: The paths of all branches, as `ir.nested` spells them.
    """

    def __init__(self, exported: Exported) -> None:
        proto = onnx.ModelProto()
        proto.CopyFrom(exported.proto)
        self._count = 0
        self._flags = self._instrument(proto.graph, "")
        for _, name in self._flags:
            proto.graph.output.append(_flag_info(name))
        self.exported = Exported(proto, exported.weights)
        self.branches = tuple(path for path, _ in self._flags)

    def reached(self, outputs: Mapping[str, Any]) -> set[str]:
        """Return the branches that ran, from the outputs of a session with the probe."""
        return {path for path, name in self._flags if np.any(outputs[name])}

    def _name(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._count}"

    def _instrument(self, graph: onnx.GraphProto, path: str) -> list[Flag]:
        flags: list[Flag] = []
        for node in list(graph.node):
            if node.domain not in STANDARD:
                continue
            here = f"{path}{node.name or next((o for o in node.output if o), node.op_type)}"
            bodies = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
            if node.op_type == "If":
                flags += self._branches(node, bodies, here)
            elif node.op_type in ("Loop", "Scan") and "body" in bodies:
                flags += self._iterations(graph, node, bodies["body"], f"{here}.body/")
        return flags

    def _branches(
        self, node: onnx.NodeProto, bodies: dict[str, onnx.GraphProto], here: str
    ) -> list[Flag]:
        names = ("then_branch", "else_branch")
        inner = {n: self._instrument(bodies[n], f"{here}.{n}/") for n in names}
        paths = [f"{here}.{n}/" for n in names]
        every = paths + [p for n in names for p, _ in inner[n]]
        flags = [(p, self._name()) for p in every]
        for taken, name in zip(names, paths, strict=True):
            body, known = bodies[taken], dict(inner[taken])
            for path in every:
                source = known.get(path) or self._constant(body, int(path == name))
                output = self._name()
                body.node.append(helper.make_node("Identity", [source], [output]))
                body.output.append(_flag_info(output))
        node.output.extend(name for _, name in flags)
        return flags

    def _iterations(
        self, graph: onnx.GraphProto, node: onnx.NodeProto, body: onnx.GraphProto, path: str
    ) -> list[Flag]:
        flags: list[Flag] = []
        for inner_path, name in self._instrument(body, path):
            body.output.append(_flag_info(name))
            stacked, total = self._name(), self._name()
            node.output.append(stacked)
            for attribute in node.attribute:
                if attribute.name in ("scan_output_axes", "scan_output_directions"):
                    attribute.ints.append(0)
            graph.node.append(helper.make_node("ReduceSum", [stacked], [total], keepdims=0))
            flags.append((inner_path, total))
        return flags

    def _constant(self, graph: onnx.GraphProto, value: int) -> str:
        name = self._name()
        tensor = helper.make_tensor(name, TensorProto.INT64, [], [value])
        graph.node.append(helper.make_node("Constant", [], [name], value=tensor))
        return name


def _flag_info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [])


def search(
    probe: Session, reader: Probe, bases: Sequence[Mapping[str, Any]], inputs: Sequence[Port]
) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Look for inputs that make more branches run; yield each with all branches that it reaches.

    Small integer and boolean inputs take each value that the model compares with, and others near
    it; axes of unknown size are halved and doubled. That reaches a branch chosen by a mode, a
    sampling rate or a length, not one chosen by content.
    """
    from onnxopt.runtime import CannotRun

    values = _values(reader.exported.proto.graph)
    trials = 0
    for base in bases:
        variants = partial(_variants, base, inputs, values)
        bad = trial.fatal(reader.exported, probe.settings, variants)
        for i, feed in enumerate(variants()):
            if trials == MOST_TRIALS:
                return
            trials += 1
            if i in bad:
                continue
            try:
                yield feed, reader.reached(probe.run(feed))
            except CannotRun:
                continue


def _values(graph: onnx.GraphProto) -> list[int]:
    """Return integers to try: 0, 1, 2, and those that single-element constants hold."""
    found: dict[int, None] = dict.fromkeys((0, 1, 2))
    stack = [graph]
    while stack:
        g = stack.pop()
        tensors = list(g.initializer)
        for node in g.node:
            tensors += [a.t for a in node.attribute if a.type == AttributeProto.TENSOR]
            stack += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
        for tensor in tensors:
            whole = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
            if whole and np.prod(tensor.dims, dtype=int) == 1 and not tensor.external_data:
                value = int(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])
                found.update(dict.fromkeys((value, value + 1, value // 2)))
    return list(found)[: 4 * MOST_VALUES]


def _variants(
    base: Mapping[str, Any], inputs: Sequence[Port], values: list[int]
) -> Iterator[dict[str, Any]]:
    return islice(_all_variants(base, inputs, values), MOST_TRIALS)


def _all_variants(
    base: Mapping[str, Any], inputs: Sequence[Port], values: list[int]
) -> Iterator[dict[str, Any]]:
    for resized in _resized(base, inputs):
        yield resized
        for port in inputs:
            x = resized.get(port.name)
            if not isinstance(x, np.ndarray) or x.size > 4 or x.dtype.kind not in "iub":
                continue
            limits = (
                (0, 1) if x.dtype.kind == "b" else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
            )
            fitting = [v for v in values if limits[0] <= v <= limits[1]][:MOST_VALUES]
            for value in fitting:
                yield {**resized, port.name: np.full_like(x, value)}


def _resized(base: Mapping[str, Any], inputs: Sequence[Port]) -> Iterator[dict[str, Any]]:
    yield dict(base)
    for port in inputs:
        x = base.get(port.name)
        if not isinstance(x, np.ndarray) or port.shape is None:
            continue
        for axis, dim in enumerate(port.shape):
            if isinstance(dim, int) or x.shape[axis] < 1:
                continue
            size = x.shape[axis]
            for new in (size // 2, 2 * size):
                if new:
                    yield {**base, port.name: np.take(x, np.arange(new) % size, axis)}

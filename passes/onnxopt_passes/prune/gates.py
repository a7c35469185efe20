"""What the outputs do when an index of a group is turned down: finite differences on gates.

Every index has a gate m = 1 that its values are multiplied with before the layers that read them;
where no weight reads a group, at the weights that make it. Gates are put into the graph as factors
of those weights, so that one session serves a whole group. With f the outputs and e = `STEP`,

    J_j = (f(m) - f(m - e unit_j)) / e

costs one run of the model for each index and sample, which `Gates.runs` counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxopt.errors import SpecError
from onnxopt.model import Exported
from onnxopt.parity import flat, is_float
from onnxopt.runtime import Session, Settings
from onnxopt_passes.prune.groups import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxopt.model import Model
    from onnxopt.parity import Outputs
    from onnxopt.samples import Feed
    from onnxopt_passes.prune.groups import Group, Member

STEP = 1 / 8
"""How far a gate is turned down: well above rounding, small against 1."""

GATE = "onnxopt_gate"
"""Name of the input, and prefix of what is computed from it."""

BROADCASTS = 7
"""From this opset on, Mul broadcasts as numpy does."""


class Gates:
    """A model whose groups can be turned down, and its outputs on some samples.

    Attributes:
        runs: How often the model was run.

    Args:
        model: Not changed.
        feeds: The samples.
        settings: How it is loaded.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """

    def __init__(self, model: Model, feeds: Sequence[Feed], settings: Settings) -> None:
        self._exported, self._opset = model.export(), model.opset
        self._feeds, self._settings = list(feeds), settings
        session = Session(self._exported, settings)
        self.outputs = [session.run(feed) for feed in self._feeds]
        self.runs = len(self._feeds)

    def turned(self, group: Group) -> Iterator[list[Outputs]]:
        """Yield the outputs on all samples with the gate of each index in turn at 1 - `STEP`.

        Raises:
            SpecError: No float weight runs along the group, or its opset is older than 7.
            CannotRun: A run fails.
        """
        session = Session(self._gated(group), self._settings)
        for index in range(group.size):
            gate = np.ones(group.size + 1, np.float32)
            gate[index] -= STEP
            self.runs += len(self._feeds)
            yield [session.run({**feed, GATE: gate}) for feed in self._feeds]

    def _gated(self, group: Group) -> Exported:
        """Return the model with one more input: the gates, and a 1 for all other positions."""
        members = _gated_members(group)
        if not members or self._opset < BROADCASTS:
            why = "no float weight" if self._opset >= BROADCASTS else "an opset older than 7"
            raise SpecError(
                f"prune: gates need float weights and opset 7; {group.name!r} has {why}"
            )
        proto = onnx.ModelProto()
        proto.CopyFrom(self._exported.proto)
        nodes: list[onnx.NodeProto] = []
        for i, member in enumerate(members):
            nodes += _factor(proto, member, f"{GATE}_{i}", group.size)
        kept = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes + kept)
        gate = helper.make_tensor_value_info(GATE, onnx.TensorProto.FLOAT, [group.size + 1])
        proto.graph.input.append(gate)
        return Exported(proto, self._exported.weights)


def _gated_members(group: Group) -> list[Member]:
    """Return the weights that take the gates: all consumers, else all that make the indices."""
    for role in (Role.CONSUMER, Role.PRODUCER):
        found = [m for m in group.members if m.role is role]
        if found:
            return found if all(m.constant.dtype.kind == "f" for m in found) else []
    return []


def _factor(proto: onnx.ModelProto, member: Member, name: str, size: int) -> list[onnx.NodeProto]:
    """Let the readers of a weight read it times its gates; return the nodes that compute it."""
    weight, rank = member.constant, len(member.constant.shape)
    place = np.full(weight.shape[member.axis], size, np.int64)
    for index, columns in enumerate(member.columns):
        place[columns] = index
    shape = np.ones(rank, np.int64)
    shape[member.axis] = -1
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(place, f"{name}.place"),
            numpy_helper.from_array(shape, f"{name}.shape"),
        ]
    )
    for node in proto.graph.node:
        for slot, read in enumerate(node.input):
            if read == weight.name:
                node.input[slot] = name
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(weight.dtype))
    return [
        helper.make_node("Gather", [GATE, f"{name}.place"], [f"{name}.each"]),
        helper.make_node("Reshape", [f"{name}.each", f"{name}.shape"], [f"{name}.wide"]),
        helper.make_node("Cast", [f"{name}.wide"], [f"{name}.cast"], to=kind),
        helper.make_node("Mul", [weight.name, f"{name}.cast"], [name]),
    ]


def float_pairs(want: Outputs, got: Outputs) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the float outputs of two runs, as float64."""
    theirs = dict(flat(got))
    for name, value in flat(want):
        if is_float(value) and name in theirs:
            yield name, value.astype(np.float64), theirs[name].astype(np.float64)

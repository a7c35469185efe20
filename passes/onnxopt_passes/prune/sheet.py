"""What a rule writes down about a graph: the axes of tensors, roles of weights, numbers to redo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.prune import algebra, axes
from onnxopt_passes.prune.soft import Statistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis
    from onnxopt_passes.prune.groups import Role


FOUND_OTHERWISE = "its length is found only by shape inference"


class Standback(Exception):
    """A rule meets what it does not know: all axes at its node are frozen with this reason."""


@dataclass(frozen=True)
class Number:
    """A size in the graph that has to follow when an axis shrinks.

    Attributes:
        node: The node that holds it.
        slot: The name of an attribute, or the index of an input that is a constant.
        place: Which element of a list; None for a single number.
        axis: Whose length it is.
        copied: Where the number is Reshape's 0: the axis of the input that it copies.
        reader: Where the node is a Concat that several nodes take their shape from: the one that
            this is about. It gets a Concat of its own if the number changes.
    """

    node: gs.Node
    slot: str | int
    place: int | None
    axis: Axis
    copied: Axis | None = None
    reader: gs.Node | None = None


@dataclass(frozen=True)
class Indices:
    """Constant indices of a Gather, which have to follow when axes shrink.

    Attributes:
        node: The Gather.
        source: The axis that it indexes.
        result: The axis that it makes.
    """

    node: gs.Node
    source: Axis
    result: Axis


class Sheet:
    """Axes of all tensors of a main graph, as far as rules have got.

    Attributes:
        opset: Version of the default operator set.
        numbers: What has to be written anew, by node and place.
        indices: Indices that have to be written anew.
        roles: What axes of constants are to the indices that run along them.
        statistics: Nodes that take means over axes.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.numbers: dict[tuple[int, str | int, int | None, int], Number] = {}
        self.indices: list[Indices] = []
        self.roles: dict[tuple[int, int], Role] = {}
        self.statistics: list[Statistic] = []
        self._axes: dict[int, tuple[Axis, ...]] = {}
        self._tensors: dict[int, gs.Tensor] = {}

    def known(self, tensor: gs.Tensor) -> tuple[Axis, ...] | None:
        """Return the axes of a tensor if it has some already."""
        return self._axes.get(id(tensor))

    def tensors(self) -> list[tuple[gs.Tensor, tuple[Axis, ...]]]:
        """Return all tensors so far with their axes."""
        return [(self._tensors[key], found) for key, found in self._axes.items()]

    def axes(self, tensor: gs.Tensor) -> tuple[Axis, ...]:
        """Return the axes of a tensor.

        A weight's are its own; those of what a caller feeds or a body sees are frozen.

        Raises:
            Standback: Its rank is unknown.
        """
        found = self._axes.get(id(tensor))
        if found is not None:
            return found
        known = shapes.dims(tensor)
        if known is None:
            raise Standback(f"the rank of {tensor.name!r} is unknown")
        reason = None if isinstance(tensor, ir.Constant) else "model input"
        return self._put(tensor, [axes.new(_length(d), reason) for d in known])

    def put(self, tensor: gs.Tensor, found: Sequence[Axis]) -> None:
        """Set the axes of an output.

        Raises:
            Standback: Shape inference knows better.
        """
        if not tensor.name:
            return
        known = shapes.dims(tensor)
        if known is not None and len(known) != len(found):
            raise Standback(f"{tensor.name!r} has {len(known)} axes, not {len(found)}")
        whole = list(found)
        for i, dim in enumerate(known or ()):
            length = axes.size(whole[i])
            if not isinstance(dim, int) or length == dim:
                continue
            if length is not None:
                raise Standback(f"axis {i} of {tensor.name!r} is {dim} long, not {length}")
            axes.freeze(whole[i], FOUND_OTHERWISE)
            whole[i] = axes.new(dim, FOUND_OTHERWISE)
        self._put(tensor, whole)

    def _put(self, tensor: gs.Tensor, found: Sequence[Axis]) -> tuple[Axis, ...]:
        self._tensors[id(tensor)] = tensor
        self._axes[id(tensor)] = tuple(found)
        return self._axes[id(tensor)]

    def block(self, tensor: gs.Tensor, reason: str) -> None:
        """Freeze a tensor; one without axes yet gets frozen ones, if its rank is known."""
        found = self._axes.get(id(tensor))
        known = shapes.dims(tensor)
        if found is None and known is not None:
            found = self._put(tensor, [axes.new(_length(d), reason) for d in known])
        for axis in found or ():
            axes.freeze(axis, reason)

    def role(self, tensor: gs.Tensor, axis: int, role: Role) -> None:
        """Say what an axis is to its indices; carried back to the weight through casts and such."""
        while not isinstance(tensor, ir.Constant):
            node = match.producer(tensor)
            if match.is_op(node, "Transpose"):
                perm = node.attrs.get("perm")  # type: ignore[union-attr]
                rank = len(self.axes(tensor))
                axis = (perm if isinstance(perm, list) else list(range(rank))[::-1])[axis]
            elif not match.is_op(node, "DequantizeLinear", "Cast", "Identity", "QuantizeLinear"):
                return
            tensor = node.inputs[0]  # type: ignore[union-attr]
        self.roles.setdefault((id(tensor), axis), role)

    def number(
        self,
        node: gs.Node,
        slot: str | int,
        place: int | None,
        axis: Axis,
        copied: Axis | None = None,
        reader: gs.Node | None = None,
    ) -> None:
        """Say that a number in the graph is the length of an axis."""
        key = (id(node), slot, place, id(reader))
        other = self.numbers.get(key)
        if other is not None:
            algebra.unify(other.axis, axis, f"one number of {ir.label(node)!r} stands for both")
            return
        self.numbers[key] = Number(node, slot, place, axis, copied, reader)

    def freeze(self, axis: Axis, node: gs.Node, reason: str) -> None:
        """Freeze an axis for a reason that lies in a node."""
        axes.freeze(axis, f"{reason} ({node.op} {ir.label(node)!r})")

    def soften(self, found: Sequence[Axis], over: Sequence[int], node: gs.Node) -> None:
        """Say that a node takes a mean over axes of its first input.

        They are frozen, unless what changes there is made up for.
        """
        reason = f"mean or variance over the axis ({node.op} {ir.label(node)!r})"
        for i in over:
            axes.soften(found[i], reason)
        self.statistics.append(Statistic(node, tuple(over)))

    def unify(self, a: Axis, b: Axis, node: gs.Node) -> None:
        """Say that two axes have the same indices, because of a node."""
        algebra.unify(a, b, f"axes that do not match ({node.op} {ir.label(node)!r})")


def _length(dim: object) -> int | None:
    return dim if isinstance(dim, int) and dim >= 0 else None

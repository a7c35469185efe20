"""Whole branches: a layer that loses all it reads computes its bias alone.

    Add(x, W h + b)  ->  Add(x, b)        where every index of h goes

A group inside of a residual branch may therefore shrink to nothing, and the branch with it: its
attention, its convolutions, all that only this layer read.

Guards: one layer alone reads the group, and nothing else; its output goes into one sum of two, the
other term of which is no constant and has its shape, so that the sum keeps it. Where that shape is
not known to be the same, the branch stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.errors import SpecError
from onnxopt.model import ir
from onnxopt.rewrite import sweep
from onnxopt.statistics import linear

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.statistics.layer import Linear
    from onnxopt_passes.prune.groups import Group


def end(group: Group) -> Linear | None:
    """Return the layer that ends the branch a group is inside of; None if it is in none.

    `match.stamp` and `shapes.infer` must have been called.
    """
    if len(group.consumers) != 1:
        return None
    member = group.consumers[0]
    graph: gs.Graph = member.node.owner  # type: ignore[attr-defined]
    layer = linear.find(graph, member.node)
    if layer is None or layer.weight is not member.constant or layer.shape[0] != 1:
        return None
    if member.axis != layer.input_axis or member.columns.size != layer.weight.shape[member.axis]:
        return None
    return layer if joined(layer) is not None else None


def end_of(group: Group) -> Linear:
    """Return the same of a group that is to go.

    Raises:
        SpecError: It is in no branch.
    """
    layer = end(group)
    if layer is None:
        raise SpecError(f"all of {group.name!r} is to go, and it is in no branch")
    return layer


def joined(layer: Linear) -> tuple[gs.Node, gs.Tensor] | None:
    """Return the sum that a layer's output goes into, and its other term."""
    graph: gs.Graph = layer.node.owner  # type: ignore[attr-defined]
    add = match.sole_reader(graph, layer.output, "Add", "Sum")
    if add is None or len(add.inputs) != 2:
        return None
    other = next((t for t in add.inputs if t is not layer.output), None)
    if other is None or match.constant(other) is not None:
        return None
    ours, theirs = shapes.dims(layer.output), shapes.dims(other)
    return (add, other) if ours is not None and ours == theirs and None not in ours else None


def drop(layer: Linear) -> None:
    """Leave a layer's bias in the place of its output, and nothing that only it has read.

    Raises:
        SpecError: The other term of its sum has gone before.
    """
    found = joined(layer)
    rank = len(shapes.dims(layer.output) or ())
    if found is None:
        raise SpecError(f"{layer.name!r}: both terms of one sum cannot go")
    add, other = found
    graph: gs.Graph = layer.node.owner  # type: ignore[attr-defined]
    maker = match.producer(layer.output)
    offsets = layer.offsets()
    if offsets.any() or match.fetched(add.outputs[0]):
        shape = [1] * rank
        shape[layer.channel_axis(rank)] = -1
        values = offsets.astype(layer.weight.dtype).reshape(shape)
        rest = ir.Constant(f"{layer.weight.name}.rest", np.ascontiguousarray(values))
        add.inputs = [rest if t is layer.output else t for t in add.inputs]
    else:
        match.replace(add.outputs[0], other)
        match.remove(add)
    sweep(graph, [] if maker is None else [maker])

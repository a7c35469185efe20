"""What a fold may cost: a constant takes bytes, and the nodes and constants it replaces give some.

credit(node) = bytes of the node + the shares of what it reads
share        = credit of the producer, or bytes of the constant, / number of readers;
               0 for what stays in the file because somebody else reads it

A node whose output is read outside the region is replaced if its credit covers its outputs, else
it is kept, and so are, or become constants, the nodes that it reads. Bytes are estimates that do
not look at names, so that names given out at export change no decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.model import tensors
from onnxopt.model.tensors import Packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

FREE = 64
"""Bytes; a tensor of that size is no larger than a node that makes it, names and types included."""

NODE, EDGE, TENSOR = 24, 6, 16
"""Bytes that a node, each of its inputs and outputs, and a constant take beside their content."""

PASSES = 64
"""A region that is not settled after so many is left alone."""


@dataclass(frozen=True, eq=False)
class Step:
    """A node whose outputs can be computed before the model runs.

    Attributes:
        node: The node.
        path: The path of its graph.
        graph: Its graph.
        value: Its output, where that is known without computing it.
    """

    node: gs.Node
    path: str
    graph: gs.Graph
    value: np.ndarray | None = None


def affordable(
    steps: Sequence[Step], sizes: Mapping[int, int], pinned: frozenset[int]
) -> list[Step]:
    """Choose the nodes to replace by constants.

    Args:
        steps: The region, producers first.
        sizes: Bytes of each output, by the tensor's id.
        pinned: Ids of constants that stay in the file whoever reads them.
    """
    inside = {id(s.node) for s in steps}
    kept = {id(s.node) for s in steps if any(match.fetched(t) for t in s.node.outputs)}
    wanted = {id(s.node) for s in steps if any(_outside(t, inside) for t in s.node.outputs)}
    for _ in range(PASSES):
        credit = _credits(steps, inside, kept | wanted, kept, pinned)
        before = (len(kept), wanted)
        wanted = set()
        for step in reversed(steps):
            key = id(step.node)
            cost = _cost(step.node, inside, kept, sizes)
            if key in kept or cost is None:
                continue
            (wanted if cost <= credit[key] else kept).add(key)
        if before == (len(kept), wanted):
            return [s for s in steps if id(s.node) in wanted]
    return []


def demanded(tensor: gs.Tensor, inside: set[int], kept: set[int]) -> bool:
    """Whether a node outside the region, or one in it that is kept, reads a tensor."""
    return any(id(n) not in inside or id(n) in kept for n in tensor.outputs)


def _outside(tensor: gs.Tensor, inside: set[int]) -> bool:
    return any(id(n) not in inside for n in tensor.outputs)


def _cost(
    node: gs.Node, inside: set[int], kept: set[int], sizes: Mapping[int, int]
) -> float | None:
    """Return the bytes that a node's outputs would take as constants; None if nobody wants them."""
    needed = [t for t in node.outputs if demanded(t, inside, kept)]
    return sum(max(0, sizes[id(t)] + TENSOR - FREE) for t in needed) if needed else None


def _credits(
    steps: Sequence[Step],
    inside: set[int],
    stays: set[int],
    kept: set[int],
    pinned: frozenset[int],
) -> dict[int, float]:
    """Return the bytes that go if a node does, by its id.

    Args:
        steps: The region, producers first.
        inside: Its nodes.
        stays: Those that are kept, or whose credit is spent on a constant of their own.
        kept: Those that are kept.
        pinned: Constants that nothing frees.
    """
    credit: dict[int, float] = {}

    def share(tensor: gs.Tensor) -> float:
        readers = {id(n) for n in tensor.outputs}
        maker = match.producer(tensor)
        if maker is not None and id(maker) in credit:
            return 0.0 if id(maker) in stays else credit[id(maker)] / len(readers)
        if id(tensor) in pinned or match.fetched(tensor) or readers & kept or readers - inside:
            return 0.0
        return content(tensor) / len(readers)

    for step in steps:
        node = step.node
        read = {id(t): t for t in node.inputs if t.name}
        credit[id(node)] = weight(node) + sum(share(t) for t in read.values())
    return credit


def weight(node: gs.Node) -> int:
    """Return about how many bytes a node takes in a file."""
    total = NODE + len(node.op) + EDGE * (len(node.inputs) + len(node.outputs))
    for value in node.attrs.values():
        total += 8 + (content(value) if isinstance(value, gs.Constant) else 0)
    return total


def content(tensor: gs.Tensor) -> int:
    """Return the bytes of a constant's values, 0 for anything else."""
    if not isinstance(tensor, gs.Constant):
        maker = match.producer(tensor)
        value = maker.attrs.get("value") if maker is not None else None
        return content(value) if isinstance(value, gs.Constant) else 0
    values = tensor._values
    if isinstance(values, Packed):
        name = len(values.tensor.name.encode())
        return int(values.tensor.ByteSize()) - (name + 2 if name else 0)
    return tensors.nbytes(tensor)

"""Which of some nodes the value of a tensor depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.model.layout import in_order, reads

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_graphsurgeon as gs


class Dependence:
    """Answers for some nodes of a graph; what was found for a tensor is remembered.

    Args:
        nodes: The nodes that matter.
    """

    def __init__(self, nodes: Iterable[gs.Node]) -> None:
        self._nodes = frozenset(id(n) for n in nodes)
        self._known: dict[int, frozenset[int]] = {}

    def of(self, tensor: gs.Tensor) -> frozenset[int]:
        """Return the ids of those nodes that the tensor cannot be computed without."""
        stack = [tensor]
        while stack:
            current = stack[-1]
            makers = list(current.inputs)
            missing = [t for n in makers for t in reads(n) if id(t) not in self._known]
            if missing:
                stack.extend(missing)
                continue
            found = frozenset(id(n) for n in makers) & self._nodes
            self._known[id(current)] = found.union(
                *(self._known[id(t)] for n in makers for t in reads(n))
            )
            stack.pop()
        return self._known[id(tensor)]


def levels(graph: gs.Graph, nodes: Iterable[gs.Node]) -> list[list[gs.Node]]:
    """Return nodes so that those of a level depend on nodes of earlier levels only."""
    chosen = list(nodes)
    wanted = {id(n) for n in chosen}
    dependence = Dependence(chosen)
    level: dict[int, int] = {}
    found: list[list[gs.Node]] = []
    for node in in_order(graph):
        if id(node) in wanted:
            before = frozenset[int]().union(*(dependence.of(t) for t in reads(node)))
            number = max((level[key] + 1 for key in before), default=0)
            level[id(node)] = number
            found.extend([] for _ in range(len(found), number + 1))
            found[number].append(node)
    return found

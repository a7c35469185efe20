"""Where things go when a graph becomes a message: order of nodes, homes and names of tensors."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt.errors import ModelError
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Path = tuple[gs.Graph, ...]


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """Yield what a node reads: its inputs, and all that its bodies use."""
    yield from (t for t in node.inputs if t.name)
    if node.attrs:
        for _, body in ir.bodies(node):
            for _, inner in ir.nested(body):
                for n in inner.nodes:
                    yield from (t for t in n.inputs if t.name)
                yield from inner.outputs


def in_order(graph: gs.Graph) -> list[gs.Node]:
    """Return the nodes so that producers come first, else in the order they have.

    Kahn's algorithm with the smallest index first: O((nodes + edges) log nodes).

    Raises:
        ModelError: Nodes wait for each other.
    """
    index = {id(node): i for i, node in enumerate(graph.nodes)}
    if _is_in_order(graph, index):
        return list(graph.nodes)
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        producers = {index[id(p)] for t in reads(node) for p in t.inputs if id(p) in index}
        waits.append(len(producers))
        for p in producers:
            readers.setdefault(p, []).append(i)
    ready = [i for i, n in enumerate(waits) if n == 0]
    order: list[gs.Node] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(graph.nodes[i])
        for reader in readers.get(i, ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(graph.nodes):
        stuck = next(n for n, w in zip(graph.nodes, waits, strict=True) if w > 0)
        raise ModelError(f"the graph has a cycle through node {ir.label(stuck)!r} ({stuck.op})")
    return order


def _is_in_order(graph: gs.Graph, index: dict[int, int]) -> bool:
    for i, node in enumerate(graph.nodes):
        for tensor in reads(node):
            for maker in tensor.inputs:
                if index.get(id(maker), -1) >= i:
                    return False
    return True


def homes(graph: gs.Graph) -> dict[int, list[gs.Constant]]:
    """Return which constants each graph declares, by the graph's id.

    A constant stays where it was declared as long as all its readers can see it there; else it
    goes to the innermost graph that encloses them all.
    """
    declared: dict[int, Path] = {}
    used: dict[int, Path] = {}
    found: dict[int, gs.Constant] = {}
    result: dict[int, list[gs.Constant]] = {}
    paths = list(_paths(graph))
    for path, g in paths:
        result[id(g)] = []
        for constant in ir.carried(g, "initializers", ()):
            if isinstance(constant, gs.Constant):
                found[id(constant)] = constant
                declared.setdefault(id(constant), path)
    for path, g in paths:
        for constant in _constants(g):
            found[id(constant)] = constant
            used[id(constant)] = _common(used.get(id(constant), path), path)
    for key, constant in found.items():
        here, readers = declared.get(key), used.get(key)
        visible = here is not None and (readers is None or _common(here, readers) == here)
        path = here if visible else readers  # type: ignore[assignment]  # one of them is a path
        result[id(path[-1])].append(constant)
    return result


def _paths(graph: gs.Graph) -> Iterator[tuple[Path, gs.Graph]]:
    stack: list[Path] = [(graph,)]
    while stack:
        path = stack.pop()
        yield path, path[-1]
        inner = [
            (*path, body) for node in path[-1].nodes if node.attrs for _, body in ir.bodies(node)
        ]
        stack.extend(reversed(inner))


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for node in graph.nodes:
        yield from (t for t in node.inputs if isinstance(t, gs.Constant))
    yield from (t for t in graph.outputs if isinstance(t, gs.Constant))


def _common(a: Path, b: Path) -> Path:
    n = 0
    while n < min(len(a), len(b)) and a[n] is b[n]:
        n += 1
    return a[:n]


class Names:
    """Unique names for all tensors of a model, given out at export.

    Rules may name new tensors as they like: of two tensors with one name in sight of each other,
    the later one gets a suffix. Names of inputs and outputs of the main graph are never changed.
    """

    def __init__(self) -> None:
        self.scopes: list[set[str]] = []
        self.given: dict[int, str] = {}
        self.kept: list[gs.Tensor] = []  # ids stay valid only while their objects live

    def enter(self, graph: gs.Graph, constants: Iterable[gs.Constant]) -> None:
        """Name all tensors that a graph defines."""
        taken: set[str] = set()
        tried: dict[str, int] = {}
        shadows: frozenset[str] = ir.carried(graph, "shadows", frozenset())
        outer = self.scopes[:]
        self.scopes.append(taken)
        defined = [t for node in graph.nodes for t in node.outputs if t.name]
        ids = {id(t) for t in defined}
        first = [*graph.inputs, *(t for t in graph.outputs if id(t) in ids)]
        for tensor in (*first, *constants, *defined):
            if id(tensor) in self.given:
                continue
            name, n = tensor.name, tried.get(tensor.name, 0)
            while name in taken or (name not in shadows and any(name in s for s in outer)):
                n += 1
                name = f"{tensor.name}_{n}"
            tried[tensor.name] = n
            taken.add(name)
            self.given[id(tensor)] = name
            self.kept.append(tensor)

    def leave(self) -> None:
        """Forget what only the current graph can see."""
        self.scopes.pop()

    def of(self, tensor: gs.Tensor) -> str:
        """Return the name of a tensor.

        Raises:
            ModelError: Nothing in sight defines it.
        """
        if not tensor.name:
            return ""
        if id(tensor) not in self.given:
            raise ModelError(f"{tensor.name!r} is used, but nothing produces it")
        return self.given[id(tensor)]

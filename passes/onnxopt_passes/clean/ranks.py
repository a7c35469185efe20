"""If one branch of which gives what nothing can take  ->  the other branch.

Exporters write Squeeze "if that axis has one element" as an If, since the rank of its result
depends on it. What reads the result often takes one rank only: the input of an LSTM has three axes,
that of a Conv as many as its weights. A run through the other branch ends in an error, so that the
If may be replaced for every input on which the model runs.

The ranks that a tensor may have are found backwards, from operators that all runs pass:

    LSTM, GRU, RNN    X has rank 3           Transpose       as many as `perm`
    Conv              X has the rank of W    elementwise     as the output
    Gemm              A and B have rank 2    (Un)Squeeze     as the output, less (or plus) the axes

A reader in a branch of an If counts where both branches ask for something. A Loop may run zero
times: what it reads says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Iterable

DEPTH = 24
"""How many nodes are followed downwards."""

BRANCHES = ("then_branch", "else_branch")


LIKE_INPUT = (
    "Abs",
    "Cast",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Tanh",
)
"""Operators whose output has the rank of their first input."""

Ranks = frozenset[int]


@dataclass(frozen=True)
class Scope:
    """A graph, and for the branch of an If what its outputs become.

    Attributes:
        graph: The graph.
        node: The If that it is a branch of; None if that does not matter.
        around: The scope of that If.
    """

    graph: gs.Graph
    node: gs.Node | None = None
    around: Scope | None = None


class Future:
    """Says what the rest of a run can take, for the Ifs of one graph as it is now.

    Args:
        graph: The graph that the Ifs are in.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._scope = Scope(graph)
        self._captures: dict[int, tuple[dict[int, gs.Node], dict[int, list[gs.Node]]]] = {}
        self._found: dict[tuple[int, int], Ranks | None] = {}

    def fated(self, node: gs.Node) -> gs.Graph | None:
        """Return the only branch of an If after which a run can go on; None if both may do."""
        wanted = [self._taken(out, self._scope, DEPTH) for out in node.outputs]
        if all(ranks is None for ranks in wanted):
            return None
        bodies = [node.attrs.get(name) for name in BRANCHES]
        alive = [b for b in bodies if isinstance(b, gs.Graph) and _fits(b.outputs, wanted)]
        return alive[0] if len(alive) == 1 else None

    def forget(self) -> None:
        """Take note that the graph was edited."""
        self._found.clear()

    def _taken(self, tensor: gs.Tensor, scope: Scope, depth: int) -> Ranks | None:
        """Return the ranks of a tensor with which a run can end well; None for any."""
        key = (id(tensor), id(scope.graph))
        if key not in self._found:
            self._found[key] = self._intersection(tensor, scope, depth - 1) if depth else None
        return self._found[key]

    def _intersection(self, tensor: gs.Tensor, scope: Scope, depth: int) -> Ranks | None:
        by_body, by_returned = self._capturing(scope.graph)
        ifs = {id(n): n for n in by_returned.get(id(tensor), ())}
        found: list[Ranks | None] = []
        for reader in {id(n): n for n in tensor.outputs}.values():
            home = getattr(reader, "owner", None)
            if home is scope.graph:
                uses = [i for i, t in enumerate(reader.inputs) if t is tensor]
                found += [self._read(reader, i, scope, depth) for i in uses]
            elif id(home) in by_body:
                ifs[id(by_body[id(home)])] = by_body[id(home)]
        found += [self._branched(tensor, scope, node, depth) for node in ifs.values()]
        if scope.node is not None and scope.around is not None:
            for inner, out in zip(scope.graph.outputs, scope.node.outputs, strict=False):
                if inner is tensor:
                    found.append(self._taken(out, scope.around, depth))
        known = [ranks for ranks in found if ranks is not None]
        return frozenset.intersection(*known) if known else None

    def _capturing(self, graph: gs.Graph) -> tuple[dict[int, gs.Node], dict[int, list[gs.Node]]]:
        """Return the Ifs of a graph by the ids of their bodies, and of what these return."""
        if id(graph) not in self._captures:
            by_body: dict[int, gs.Node] = {}
            by_returned: dict[int, list[gs.Node]] = {}
            for node in graph.nodes:
                for _, body in ir.bodies(node) if match.is_op(node, "If") else ():
                    by_body[id(body)] = node
                    for tensor in body.outputs:
                        by_returned.setdefault(id(tensor), []).append(node)
            self._captures[id(graph)] = by_body, by_returned
        return self._captures[id(graph)]

    def _branched(self, tensor: gs.Tensor, scope: Scope, node: gs.Node, depth: int) -> Ranks | None:
        """Return the ranks with which one of the branches of an If ends well."""
        found: set[int] = set()
        for name in BRANCHES:
            body = node.attrs.get(name)
            ranks = self._taken(tensor, Scope(body, node, scope), depth) if body else None
            if ranks is None:
                return None
            found |= ranks
        return frozenset(found)

    def _read(self, node: gs.Node, index: int, scope: Scope, depth: int) -> Ranks | None:
        """Return the ranks that an operator takes as one of its inputs."""
        if match.is_op(node, "Gemm"):
            return frozenset((2,)) if index < 2 else None
        if index != 0 or not node.outputs:
            return None
        if match.is_op(node, *match.RECURRENT):
            return frozenset((3,))
        if match.is_op(node, "Conv", "ConvTranspose"):
            weight = shapes.dims(node.inputs[1])
            return None if weight is None else frozenset((len(weight),))
        if match.is_op(node, "Transpose"):
            perm = node.attrs.get("perm")
            return frozenset((len(perm),)) if isinstance(perm, list) else None
        if match.is_op(node, *LIKE_INPUT):
            return self._taken(node.outputs[0], scope, depth)
        if match.is_op(node, "Squeeze", "Unsqueeze"):
            axes = match.integers(node, 1, "axes")
            after = None if axes is None else self._taken(node.outputs[0], scope, depth)
            if axes is None or after is None:
                return None
            change = len(axes) if node.op == "Squeeze" else -len(axes)
            return frozenset(rank + change for rank in after)
        return None


def _fits(outputs: Iterable[gs.Tensor], wanted: list[Ranks | None]) -> bool:
    for tensor, ranks in zip(outputs, wanted, strict=False):
        dims = shapes.dims(tensor)
        if ranks is not None and dims is not None and len(dims) not in ranks:
            return False
    return True

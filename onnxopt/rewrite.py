"""Local rewrites, applied to a model up to the fixpoint."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt.errors import PassError
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

FIRINGS_PER_NODE = 32
"""A rule set that fires more often than this undoes its own work."""


@dataclass(frozen=True)
class Rule:
    """A rewrite that looks at one node and its neighbours.

    Attributes:
        name: First part of the edit ids, and how reports call it.
        anchors: The ops it is tried on, standard domain; `*` for all.
        rewrite: `(graph, node) -> bool`. All guards precede the first write: False means that
            nothing was changed. A node that is to go is detached with `match.remove`, new ones
            are added with `match.insert`; nodes that nothing reads any more are swept.
    """

    name: str
    anchors: tuple[str, ...]
    rewrite: Callable[[gs.Graph, gs.Node], bool]


def edit_id(rule: str, path: str, node: gs.Node) -> str:
    """Return the stable id of an edit: `rule@path/of/graph/node`."""
    return f"{rule}@{path}{ir.label(node)}"


def apply(model: Model, rules: Sequence[Rule], ctx: Context) -> int:
    """Apply rules to all graphs of a model, functions included, until none fires.

    Rounds after the first look only at what the round before touched; the last one looks at all
    again, so that the result is a fixpoint. Nodes are visited in the graph's order and rules in
    theirs, which makes the result deterministic.

    Returns:
        How many rewrites were made.

    Raises:
        PassError: The rules undo each other's work.
    """
    by_op: dict[str, list[Rule]] = {}
    for rule in rules:
        for anchor in rule.anchors:
            by_op.setdefault(anchor, []).append(rule)
    total = 0
    with editing(model):
        for path, graph in list(model.graphs()):
            total += _fixpoint(graph, path, by_op, ctx)
    return total


@contextmanager
def editing(model: Model) -> Iterator[None]:
    """Stamp the graphs; at the end drop initializers that lost their last reader in between.

    For passes that edit graphs by themselves; `apply` does it for rules.
    """
    read = {id(c) for c in _declared(model) if c.outputs}
    for root in (model.graph, *model.graph.functions):
        match.stamp(root)
    yield
    _drop_orphans(model, read)


def _declared(model: Model) -> Iterator[gs.Constant]:
    for _, graph in model.graphs():
        yield from ir.carried(graph, "initializers", ())


def _drop_orphans(model: Model, read: set[int]) -> None:
    """Take those initializers out of the file that were read, and no longer are."""
    dead = {id(c) for c in _declared(model) if not (c.outputs or match.fetched(c))} & read
    for _, graph in model.graphs():
        if isinstance(graph, ir.Graph) and not graph.slots:  # those hold their place
            graph.initializers = [c for c in graph.initializers if id(c) not in dead]


def _fixpoint(graph: gs.Graph, path: str, rules: dict[str, list[Rule]], ctx: Context) -> int:
    limit = FIRINGS_PER_NODE * (len(graph.nodes) + 8)
    total, everywhere = 0, True
    todo: list[gs.Node] = list(graph.nodes)
    while True:
        touched: dict[int, gs.Node] = {}
        fired = 0
        for node in todo:
            fired += _try(graph, path, node, rules, ctx, touched)
            if total + fired > limit:
                raise PassError(f"rules undo each other's work near {ir.label(node)!r}: they loop")
        if not fired and everywhere:
            return total
        total += fired
        sweep(graph, touched.values())
        everywhere = not fired
        todo = [n for n in graph.nodes if everywhere or id(n) in touched]


def _try(
    graph: gs.Graph,
    path: str,
    node: gs.Node,
    rules: dict[str, list[Rule]],
    ctx: Context,
    touched: dict[int, gs.Node],
) -> int:
    """Try the rules on one node; return how many fired, at most one of each."""
    fired = 0
    candidates = rules.get(node.op, []) if node.domain in match.STANDARD else []
    here = f"{path}{ir.label(node)}"
    around: list[gs.Node] = []
    for rule in (*candidates, *rules.get("*", ())):
        if getattr(node, "removed", False):
            break
        if node.op not in rule.anchors and "*" not in rule.anchors:
            continue  # a rule before this one has made it another op
        label = f"{rule.name}@{here}"
        around = around or _around(node)
        size = len(graph.nodes)
        if not ctx.allow(label):
            continue
        if not _fires(rule, label, graph, node):
            ctx.retract(label)
            continue
        fired += 1
        for n in (*around, *_around(node), *graph.nodes[size:]):
            touched[id(n)] = n
        around = []
        for n in graph.nodes[size:]:
            for near in _around(n):
                touched[id(near)] = near
    return fired


def _fires(rule: Rule, label: str, graph: gs.Graph, node: gs.Node) -> bool:
    """Try a rule; give the reasons why it stands back its label, and forget those if it fires."""
    reasons = match.MISSES.get()
    known = 0 if reasons is None else len(reasons)
    fires = rule.rewrite(graph, node)
    if reasons is not None:
        reasons[known:] = [] if fires else [f"{label}: {reason}" for reason in reasons[known:]]
    return fires


def _around(node: gs.Node) -> list[gs.Node]:
    """Return a node and its neighbours two steps up and one down; shared tensors count once."""
    found = [node]
    for tensor in node.inputs:
        for above in tensor.inputs:
            found.append(above)
            found.extend(p for t in above.inputs for p in t.inputs)
    for tensor in node.outputs:
        found.extend(tensor.outputs[:16])
    return found


def sweep(graph: gs.Graph, start: Iterable[gs.Node]) -> int:
    """Drop detached nodes, and those near `start` whose outputs nothing reads; return how many."""
    stack = list(start)
    while stack:
        node = stack.pop()
        if getattr(node, "removed", False) or not match.here(graph, node):
            continue
        if any(t.outputs or match.fetched(t) for t in node.outputs):
            continue
        above = [p for t in node.inputs for p in t.inputs]
        match.remove(node)
        stack.extend(above)
    before = len(graph.nodes)
    graph.nodes[:] = [n for n in graph.nodes if not getattr(n, "removed", False)]
    return before - len(graph.nodes)

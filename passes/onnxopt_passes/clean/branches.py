"""If(constant) -> the nodes of the branch that is taken;  Loop(0 times) -> its initial values.

The nodes of the branch move into the graph around it. Tensors are objects, so that what they
capture and what is called alike elsewhere needs no care; export gives out names. An output that a
graph returns must stay the tensor that it is: the node that makes it in the branch then emits it,
or an Identity does where the branch returns a constant, a captured tensor, or one tensor twice.

An If is decided too where one branch gives what nothing can take: see `ranks`. A Loop that never
runs gives its initial values; one whose scan outputs are read is left alone, since their shape
without any iteration is unknown.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import edit_id
from onnxopt_passes.clean import links
from onnxopt_passes.clean.ranks import Future

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

ANY_IDENTITY = 16
"""From this opset on, Identity takes sequences and optionals too."""


def decide(model: Model, ctx: Context) -> int:
    """Replace Ifs with a constant condition, and Loops that never run."""
    returned = Counter(id(t) for _, graph in model.graphs() for t in graph.outputs)
    made = 0
    for path, graph in list(model.graphs()):
        waiting, nodes = graph.nodes[::-1], []
        before = made
        names = {node.name for node in waiting}
        future = Future(graph)
        while waiting:
            node = waiting.pop()
            if getattr(node, "removed", False):
                continue
            taken = _branch(future, node)
            sources = _sources(node, taken)
            if sources is None or not _movable(graph, node, sources):
                nodes.append(node)
            elif ctx.allow(edit_id("branch", path, node)):
                label = ir.label(node)
                moved = _inline(graph, node, taken, sources, returned)
                _rename(moved, names, label)
                waiting += reversed(moved)
                future.forget()
                made += 1
            else:
                nodes.append(node)
        if made > before:
            graph.nodes[:] = nodes
    if made:
        links.restamp(model)
    return made


def _rename(moved: list[gs.Node], names: set[str], label: str) -> None:
    """Give nodes that come into a graph names that it does not have: onnxruntime asks for that."""
    for node in moved:
        if node.name in names and node.name:
            node.name = f"{label}/{node.name}"
        names.add(node.name)


def _sources(node: gs.Node, taken: gs.Graph | None) -> list[gs.Tensor] | None:
    """Return what the outputs of a node are equal to; None if that is not known."""
    if taken is not None:
        return list(taken.outputs)
    if match.is_op(node, "Loop") and _never_runs(node):
        carried = list(node.inputs[2:])
        scans = node.outputs[len(carried) :]
        if any(t.outputs or match.fetched(t) for t in scans):
            return None
        return carried[: len(node.outputs)]
    return None


def _branch(future: Future, node: gs.Node) -> gs.Graph | None:
    """Return the body that an If runs, whenever a run ends well; None if that may be either."""
    if not match.is_op(node, "If"):
        return None
    condition = match.scalar(node.inputs[0])
    if condition is None:
        taken = future.fated(node)
    else:
        taken = node.attrs.get("then_branch" if condition else "else_branch")
    fits = isinstance(taken, gs.Graph) and len(taken.outputs) >= len(node.outputs)
    return taken if fits else None


def _never_runs(node: gs.Node) -> bool:
    trips = match.scalar(node.inputs[0]) if match.given(node, 0) else None
    condition = match.scalar(node.inputs[1]) if match.given(node, 1) else None
    return (trips is not None and trips <= 0) or (condition is not None and not condition)


def _movable(graph: gs.Graph, node: gs.Node, sources: list[gs.Tensor]) -> bool:
    """Whether an Identity can stand wherever one is needed."""
    if any(not s.name for s in sources):
        return False
    pairs = zip(sources, node.outputs[: len(sources)], strict=False)
    return graph.opset >= ANY_IDENTITY or not any(
        match.fetched(out) and shapes.dtype(source) is None and shapes.dtype(out) is None
        for source, out in pairs
    )


def _inline(
    graph: gs.Graph,
    node: gs.Node,
    taken: gs.Graph | None,
    sources: list[gs.Tensor],
    returned: Counter[int],
) -> list[gs.Node]:
    """Make a node's equal give its outputs; return the nodes that take its place.

    Args:
        graph: Where the node is.
        node: The If or Loop.
        taken: The branch that the If runs; None for a Loop.
        sources: What its outputs are equal to.
        returned: How many graphs return a tensor, by id; kept up to date.
    """
    for _, body in ir.bodies(node):
        for _, inner in ir.nested(body):
            returned.subtract(id(t) for t in inner.outputs)
    moved = [] if taken is None else taken.nodes
    if taken is not None:
        taken.nodes = []
    for inner_node in moved:
        inner_node.owner = graph  # type: ignore[attr-defined]
        for _, body in ir.bodies(inner_node):
            for _, inner in ir.nested(body):
                returned.update(id(t) for t in inner.outputs)
    makers = {id(n) for n in moved}
    outputs = list(node.outputs)
    links.detach(node)
    for out, source in zip(outputs, sources, strict=False):
        source.fetched = returned[id(source)] > 0  # type: ignore[attr-defined]
        if not match.fetched(out):
            links.redirect(out, source)
            continue
        maker = match.producer(source)
        if maker is not None and id(maker) in makers and not match.fetched(source):
            maker.outputs = [out if t is source else t for t in maker.outputs]
            links.redirect(source, out)
            sources[:] = [out if s is source else s for s in sources]
        else:
            copy = ir.Node("Identity", node.name, {}, [source], [out])
            copy.owner = graph  # type: ignore[attr-defined]
            moved.append(copy)
    return moved

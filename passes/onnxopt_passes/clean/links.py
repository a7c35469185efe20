"""Words of the global parts: who reads what, over all graphs of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.model import Model


def roots(model: Model) -> Iterator[tuple[str, gs.Graph]]:
    """Yield the main graph and the functions, each with its path: nothing is seen across these."""
    yield "", model.graph
    for function in model.graph.functions:
        yield f"{function.domain}::{function.name}/", function


def restamp(model: Model) -> None:
    """Note anew which graph nodes are in and which tensors are returned; bodies come and go."""
    for _, graph in model.graphs():
        for node in graph.nodes:
            for tensor in (*node.outputs, *node.inputs):
                if match.fetched(tensor):
                    tensor.fetched = False  # type: ignore[attr-defined]
        for tensor in (*graph.inputs, *graph.outputs):
            tensor.fetched = False  # type: ignore[attr-defined]
    for _, root in roots(model):
        match.stamp(root)


def redirect(old: gs.Tensor, new: gs.Tensor) -> None:
    """Make all readers of `old` read `new`; a graph that returns it goes on doing so."""
    for node in {id(n): n for n in old.outputs}.values():
        for i, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[i] = new


def detach(node: gs.Node) -> None:
    """Remove a node and everything in its bodies, so that walks over those graphs skip it."""
    for _, body in ir.bodies(node):
        for _, inner in ir.nested(body):
            for n in inner.nodes:
                n.removed = True  # type: ignore[attr-defined]
    match.remove(node)


def purge(graph: gs.Graph) -> None:
    """Drop the nodes from a graph that `match.remove` has detached."""
    graph.nodes[:] = [n for n in graph.nodes if not getattr(n, "removed", False)]


def overridden(model: Model) -> frozenset[str]:
    """Return which ops of the default domain the model defines by functions of its own."""
    return frozenset(f.name for f in model.graph.functions if f.domain in match.STANDARD)


def pinned(graph: gs.Graph) -> set[int]:
    """Return the ids of constants of a graph that must stay although no node reads them.

    They are named by a quantization annotation, are returned, or hold a place in the list of
    inputs (before IR version 4).
    """
    rest = ir.carried(graph, "rest", None)
    annotations = rest.quantization_annotation if isinstance(rest, onnx.GraphProto) else ()
    annotated = {e.value for a in annotations for e in a.quant_parameter_tensor_names}
    kept = {id(c) for c in ir.carried(graph, "initializers", ()) if c.name in annotated}
    kept.update(id(c) for _, _, c in ir.carried(graph, "slots", ()))
    kept.update(id(t) for t in graph.outputs)
    return kept


def constants(root: gs.Graph, path: str) -> Iterator[tuple[str, gs.Constant]]:
    """Yield every constant that a root and its bodies declare or read, with its path."""
    seen: set[int] = set()
    for here, graph in ir.nested(root, path):
        met = [*ir.carried(graph, "initializers", ()), *graph.outputs]
        for tensor in (*met, *(t for node in graph.nodes for t in node.inputs)):
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield here, tensor

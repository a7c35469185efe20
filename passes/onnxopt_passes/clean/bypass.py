"""The one edit that all identities share: a node goes, its readers read what it read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def bypass(graph: gs.Graph, node: gs.Node, source: gs.Tensor) -> bool:
    """Drop a node whose first output equals `source`; False, and nothing done, if it must stay.

    An output that a graph returns keeps its tensor: the node that makes `source` makes it then,
    if it is in the same graph and the graph does not return `source` as well.
    """
    out = node.outputs[0]
    if not source.name or any(t.outputs or match.fetched(t) for t in node.outputs[1:]):
        return False
    if not match.fetched(out):
        match.replace(out, source)
        match.remove(node)
        return True
    maker = match.producer(source)
    if maker is None or not match.here(graph, maker) or match.fetched(source):
        return False

    match.remove(node)
    match.replace(source, out)
    maker.outputs = [out if t is source else t for t in maker.outputs]
    return True

"""Ops that only put in, leave out, or move axes of size 1.

Transpose(x, p)  -> x                                          if p moves axes of size 1 alone
g(f(x))          -> x, Squeeze(x, axes) or Unsqueeze(x, axes)  f, g: Squeeze, Unsqueeze, Transpose

The elements keep their order, so that what the tensor is follows from where, among its other axes,
the ones are. A pair becomes a single op where that op puts in all ones that miss, or leaves out
all that are too many; where some are to go and others to come, both stay. Only sizes that are
known to be 1 count as such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes
from onnxopt_passes.clean.bypass import bypass
from onnxopt_passes.clean.islands import permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

VIEWS = ("Squeeze", "Unsqueeze", "Transpose")

ONE = -1
"""Stands for an axis of size 1; any other axis is told by its place in the source."""


def still_transpose(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop a Transpose that moves axes of size 1 alone, and those past no other axis."""
    labels = _source(node)
    return (
        labels is not None and _seen(node, labels) == labels and bypass(graph, node, node.inputs[0])
    )


def merge_ones(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one op, or none, of two that change nothing but axes of size 1."""
    inner = match.producer(node.inputs[0])
    if inner is None or not match.is_op(inner, *VIEWS):
        return False
    before = _source(inner)
    between = None if before is None else _seen(inner, before)
    after = None if between is None else _seen(node, between)
    if before is None or after is None:
        return False
    if after == before:
        return bypass(graph, node, inner.inputs[0])
    if match.sole(graph, node.inputs[0]) is None:
        return False
    few, many = _extra(before, after), _extra(after, before)
    if few is None and many is None:
        return False

    op, at = ("Squeeze", few) if few is not None else ("Unsqueeze", many)
    source, out = inner.inputs[0], node.outputs[0]
    match.remove(node)
    made = match.insert(graph, ir.Node(op, node.name, {}, [source], [out]))
    axes.set_axes(graph, made, at or ())
    return True


def _source(node: gs.Node) -> list[int] | None:
    """Return the labels of what a node reads; what a Squeeze leaves out is of size 1."""
    found = shapes.dims(node.inputs[0])
    if found is None:
        return None
    gone = axes.squeezed(node) if node.op == "Squeeze" else []
    left = None if gone is None else axes.normal(gone, len(found))
    return (
        None if left is None else [ONE if d == 1 or i in left else i for i, d in enumerate(found)]
    )


def _seen(node: gs.Node, labels: Sequence[int]) -> list[int] | None:
    """Return the labels of what a node makes of a tensor, None if it changes more than ones."""
    if node.op == "Transpose":
        perm = permutation(node)
        if perm is None or len(perm) != len(labels):
            return None
        moved = [labels[i] for i in perm]
        others = [i for i in moved if i != ONE]
        return moved if others == sorted(others) else None
    named = axes.squeezed(node) if node.op == "Squeeze" else axes.axes_of(node)
    if not named:
        return None
    rank = len(labels) + (len(named) if node.op == "Unsqueeze" else 0)
    chosen = axes.normal(named, rank)
    if chosen is None:
        return None
    if node.op == "Unsqueeze":
        rest = iter(labels)
        return [ONE if i in chosen else next(rest) for i in range(rank)]
    left = [label for i, label in enumerate(labels) if i not in chosen]
    return left if all(labels[i] == ONE for i in chosen) else None


def _extra(labels: Sequence[int], without: Sequence[int]) -> list[int] | None:
    """Return which axes of size 1 are in the first and not in the second; None if more differs."""
    extra, rest = [], list(reversed(without))
    for i, label in enumerate(labels):
        if rest and rest[-1] == label:
            rest.pop()
        elif label == ONE:
            extra.append(i)
        else:
            return None
    return None if rest else extra


RULES: tuple[Rule, ...] = (
    Rule("still_transpose", ("Transpose",), still_transpose),
    Rule("merge_ones", VIEWS, merge_ones),
)
"""In the order in which they are tried."""

"""Transposes that cancel, merge, or need not be.

Transpose(Transpose(x, p), q)           -> Transpose(x, p after q), or x
Reshape(Transpose(x, p), shape)         -> Reshape(x, shape)    if only axes of size 1 move
Reduce(Transpose(x, p), axes)           -> Reduce(x, p[axes])   if the others keep their order

The last one takes keepdims=0 only. What lies between two Transposes is the matter of `islands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes
from onnxopt_passes.clean.bypass import bypass
from onnxopt_passes.clean.islands import REDUCTIONS, cross_island, permutation

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def merge_transposes(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one Transpose of two in a row, or none."""
    inner = match.producer(node.inputs[0])
    if inner is None or not match.is_op(inner, "Transpose"):
        return False
    source = inner.inputs[0]
    if "perm" not in node.attrs and "perm" not in inner.attrs:
        return bypass(graph, node, source)
    first, second = permutation(inner), permutation(node)
    rank = len(first or second or ())
    first = list(reversed(range(rank))) if "perm" not in inner.attrs else first
    second = list(reversed(range(rank))) if "perm" not in node.attrs else second
    if first is None or second is None or len(first) != len(second):
        return False
    perm = [first[i] for i in second]
    if perm == list(range(rank)):
        return bypass(graph, node, source)
    if match.sole(graph, node.inputs[0]) is None:
        return False

    node.inputs = [source]
    node.attrs["perm"] = perm
    return True


def reshape_untransposed(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a Reshape read what a Transpose reads that leaves the order of the elements alone."""
    inner = match.sole(graph, node.inputs[0], "Transpose")
    if inner is None or not match.given(node, 1):
        return False
    shape, literal = match.constant(node.inputs[1]), axes.integer(node, "allowzero", 0) == 1
    if shape is None or (not literal and not shape.all()):
        return False
    source = inner.inputs[0]
    perm, found = permutation(inner), shapes.dims(source)
    if perm is None or found is None or len(found) != len(perm):
        return False
    moved = [i for i in perm if found[i] != 1]
    if moved != sorted(moved):
        return False

    node.inputs = [source, node.inputs[1]]
    return True


def reduce_untransposed(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a reduction that drops its axes read what a Transpose reads."""
    inner = match.sole(graph, node.inputs[0], "Transpose")
    reduced = axes.axes_of(node)
    perm = None if inner is None else permutation(inner)
    if inner is None or not reduced or perm is None or axes.integer(node, "keepdims") != 0:
        return False
    chosen = axes.normal(reduced, len(perm))
    if chosen is None:
        return False
    stay = [perm[k] for k in range(len(perm)) if k not in chosen]
    if stay != sorted(stay):
        return False

    axes.set_axes(graph, node, sorted(perm[k] for k in chosen))
    node.inputs = [inner.inputs[0], *node.inputs[1:]]
    return True


RULES: tuple[Rule, ...] = (
    Rule("merge_transposes", ("Transpose",), merge_transposes),
    Rule("reshape_untransposed", ("Reshape",), reshape_untransposed),
    Rule("reduce_untransposed", REDUCTIONS, reduce_untransposed),
    Rule("transpose_island", ("Transpose",), cross_island),
)
"""In the order in which they are tried."""

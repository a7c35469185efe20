"""Ops that put in, leave out, or move axes of size 1, and permute the others.

h(..g(f(x)))  ->  x, or one op of x         f, g, h: Squeeze, Unsqueeze, Transpose, and Reshapes
                                            that only put in or leave out axes of size 1

Each axis of x is followed through the chain. What comes out is x itself; or x without some ones, or
with some more, in the same order (Squeeze, Unsqueeze); or a permutation of its axes (Transpose).
Where it is none of these, all stay. An op alone goes where it makes x itself. Only sizes that are
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

VIEWS = ("Squeeze", "Unsqueeze", "Transpose", "Reshape")

LONGEST = 6
"""Ops of the longest chain that is followed."""

MOST_AXES = 64
"""Axes that a tensor of unknown rank is given: more than any has, so that its last are not met."""

ONE = -1
"""Stands for an axis of size 1; any other axis is told by its place in the source."""


def merge_chain(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one op, or none, of some that only move axes of size 1 and permute the others."""
    chain: list[gs.Node] = []
    found, alone = None, True
    inner: gs.Node | None = node
    while inner is not None and match.is_op(inner, *VIEWS) and len(chain) < LONGEST:
        chain.append(inner)
        source = inner.inputs[0]
        before = _source(inner) or _unranked(chain)
        after = None if before is None else _through(chain, before)
        if before is not None and after == before:
            return bypass(graph, node, source)
        if before is not None and after is not None and alone and len(chain) > 1:
            one = _single(before, after)
            found = found if one is None else (source, *one)
        alone = alone and match.sole(graph, source) is not None
        inner = match.producer(source)
    if found is None:
        return False

    source, op, numbers = found
    out = node.outputs[0]
    match.remove(node)
    attributes = {"perm": numbers} if op == "Transpose" else {}
    made = match.insert(graph, ir.Node(op, node.name, attributes, [source], [out]))
    if op != "Transpose":
        axes.set_axes(graph, made, numbers)
    return True


def _through(chain: Sequence[gs.Node], labels: Sequence[int]) -> list[int] | None:
    """Return the labels that a chain, its last op first, makes of those of its source."""
    seen: list[int] | None = list(labels)
    for op in reversed(chain):
        seen = None if seen is None else _seen(op, seen)
    return seen


def _single(before: Sequence[int], after: Sequence[int]) -> tuple[str, list[int]] | None:
    """Return the op, and its axes or permutation, that makes the second of the first."""
    few, many = _extra(before, after), _extra(after, before)
    if few is not None:
        return "Squeeze", few
    if many is not None:
        return "Unsqueeze", many
    if sorted(before) != sorted(after) or _others(before) == _others(after):
        return None  # moving ones takes a copy as a Transpose, and none as Squeeze and Unsqueeze
    ones = iter([i for i, label in enumerate(before) if label == ONE])
    return "Transpose", [next(ones) if x == ONE else before.index(x) for x in after]


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


def _unranked(chain: Sequence[gs.Node]) -> list[int] | None:
    """Return labels for a source of unknown rank, where a chain counts all axes from the front."""
    named = [axes.axes_of(n) for n in chain if match.is_op(n, "Squeeze", "Unsqueeze")]
    if len(named) < len(chain) or any(not part or min(part) < 0 for part in named):
        return None
    gone = named[-1] if chain[-1].op == "Squeeze" else None
    return [ONE if gone and i in gone else i for i in range(MOST_AXES)]


def _seen(node: gs.Node, labels: Sequence[int]) -> list[int] | None:
    """Return the labels of what a node makes of a tensor, None if it is not known to keep axes."""
    if node.op == "Transpose":
        perm = permutation(node)
        return None if perm is None or len(perm) != len(labels) else [labels[i] for i in perm]
    if node.op == "Reshape":
        return _reshaped(node, labels)
    named = axes.squeezed(node) if node.op == "Squeeze" else axes.axes_of(node)
    rank = len(labels) + (len(named or ()) if node.op == "Unsqueeze" else 0)
    chosen = axes.normal(named or (), rank)
    if not chosen:
        return None
    if node.op == "Unsqueeze":
        rest = iter(labels)
        return [ONE if i in chosen else next(rest) for i in range(rank)]
    return [label for i, label in enumerate(labels) if i not in chosen]


def _reshaped(node: gs.Node, labels: Sequence[int]) -> list[int] | None:
    """Return the labels behind a Reshape that keeps all axes but some of size 1.

    Sizes are compared in their order; one that is not known on both sides follows from the others.
    """
    source, result = (shapes.dims(t) for t in (node.inputs[0], node.outputs[0]))
    if source is None or result is None or len(source) != len(labels):
        return None
    old = [d for d, label in zip(source, labels, strict=True) if label != ONE]
    new = [d for d in result if d != 1]
    if len(old) != len(new):
        return None
    open_ = [(a, b) for a, b in zip(old, new, strict=True) if a is None or a != b]
    if len(open_) > 1 or any(isinstance(a, int) and isinstance(b, int) for a, b in open_):
        return None
    if open_ and not all(isinstance(a, int) and a > 0 for a in old if a != open_[0][0]):
        return None
    rest = iter(_others(labels))
    return [ONE if d == 1 else next(rest) for d in result]


def _others(labels: Sequence[int]) -> list[int]:
    return [label for label in labels if label != ONE]


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


RULES: tuple[Rule, ...] = (Rule("merge_chain", VIEWS, merge_chain),)
"""The rule."""

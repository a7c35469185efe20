"""Where(Equal(shape, c), a, b)  ->  a or b, where every element is known to come from there.

Where(Equal(shape, c), a, Concat(p, q, ..))  ->  Concat(p, a1, ..), where it is known of each from
which. Exporters write "-1 keeps the dimension" of Expand this way: Equal of the wanted shape and
-1, ones where they are equal, else the shape itself. A dimension is never negative, so that its
element is decided though its size is not (`shapes.elements`).

Guards: integers of rank 0 or 1 throughout; what is handed on has the shape and type of the result;
an element that is not decided must be the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.shapes import Element


def choose(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop a Where whose every element is known to come from one branch."""
    test = match.producer(node.inputs[0])
    if test is None or not match.is_op(test, "Equal"):
        return False
    sides = [shapes.elements(t) for t in (*test.inputs, *node.inputs[1:])]
    if any(s is None for s in sides):
        return False
    length = max(len(s) for s in sides if s is not None)
    left, right, yes, no = ((s or []) * (length if len(s or []) == 1 else 1) for s in sides)
    if any(len(s) != length for s in (left, right, yes, no)):
        return False
    decided = [equal(x, y) for x, y in zip(left, right, strict=True)]
    for branch, wanted in ((node.inputs[1], True), (node.inputs[2], False)):
        pairs = zip(decided, yes, no, strict=True)
        if _alike(branch, node) and all(d is wanted or a == b for d, a, b in pairs):
            return bypass(graph, node, branch)
    return _joined(node, decided, yes)


def _alike(branch: gs.Tensor, node: gs.Node) -> bool:
    """Whether a branch has the shape and type of the result."""
    out = node.outputs[0]
    return (shapes.static(branch), shapes.dtype(branch)) == (shapes.static(out), shapes.dtype(out))


def _joined(node: gs.Node, decided: list[bool | None], yes: list[Element]) -> bool:
    """Write the result as a Concat of some parts of the second branch and numbers of the first."""
    concat = match.producer(node.inputs[2])
    if concat is None or not match.is_op(concat, "Concat") or not _alike(node.inputs[2], node):
        return False
    if any(shapes.static(t) != (1,) for t in concat.inputs) or None in decided:
        return False
    if any(d and not isinstance(e, int) for d, e in zip(decided, yes, strict=True)):
        return False
    out, parts = node.outputs[0], zip(decided, yes, concat.inputs, strict=True)
    kind = shapes.dtype(out)
    node.inputs = [
        ir.Constant(f"{out.name}.{i}", np.array([e], kind)) if d else t
        for i, (d, e, t) in enumerate(parts)
    ]
    node.op, node.attrs = "Concat", {"axis": 0}
    return True


def equal(x: Element, y: Element) -> bool | None:
    """Return whether two elements are equal in every run; None where that depends on the feed."""
    if x == y:
        return True
    if isinstance(x, int) and isinstance(y, int):
        return False
    number, other = (x, y) if isinstance(x, int) else (y, x)
    below = isinstance(number, int) and number < 0
    return False if below and isinstance(other, shapes.Axis) and _dimension(other) else None


def _dimension(element: shapes.Axis) -> bool:
    """Whether an element is a dimension of a tensor, and not computed from some."""
    return isinstance(element.key, str) or element.key[1] >= 0


RULES: tuple[Rule, ...] = (Rule("shape_choice", ("Where",), choose),)
"""The rule."""

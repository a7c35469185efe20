"""Where(Equal(shape, c), a, b)  ->  a or b, where every element is known to come from there.

Where(Equal(shape, c), a, Concat(p, q, ..))  ->  Concat(p, a1, ..), where it is known of each from
which. Exporters write "-1 keeps the dimension" of Expand this way: Equal of the wanted shape and
-1, ones where they are equal, else the shape itself. A dimension is never negative, so that its
element is decided though its size is not (`shape_values.elements`).

Guards: integers of rank 0 or 1 throughout; what is handed on has the shape and type of the result;
an element that is not decided must be the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shape_values, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.shapes import Element


def choose(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop a Where whose every element is known to come from one branch."""
    sides = [shape_values.elements(t) for t in node.inputs]
    if any(s is None for s in sides):
        return False
    length = max(len(s) for s in sides if s is not None)
    tests, yes, no = ((s or []) * (length if len(s or []) == 1 else 1) for s in sides)
    if any(len(s) != length for s in (tests, yes, no)):
        return False
    for branch, wanted in ((node.inputs[1], 1), (node.inputs[2], 0)):
        rows = zip(tests, yes, no, strict=True)
        if _alike(branch, node) and all(t == wanted or a == b for t, a, b in rows):
            return bypass(graph, node, branch)
    return _joined(node, tests, yes)


def _alike(branch: gs.Tensor, node: gs.Node) -> bool:
    """Whether a branch has the shape and type of the result."""
    out = node.outputs[0]
    return (shapes.static(branch), shapes.dtype(branch)) == (shapes.static(out), shapes.dtype(out))


def _joined(node: gs.Node, tests: list[Element], yes: list[Element]) -> bool:
    """Write the result as a Concat of some parts of the second branch and numbers of the first."""
    concat = match.producer(node.inputs[2])
    if concat is None or not match.is_op(concat, "Concat") or not _alike(node.inputs[2], node):
        return False
    if any(shapes.static(t) != (1,) for t in concat.inputs) or len(concat.inputs) != len(tests):
        return False
    chosen = [e if t == 1 else None for t, e in zip(tests, yes, strict=True)]
    if any(t not in (0, 1) for t in tests) or any(isinstance(e, shapes.Axis) for e in chosen):
        return False
    out = node.outputs[0]
    kind = shapes.dtype(out)
    node.inputs = [
        t if e is None else ir.Constant(f"{out.name}.{i}", np.array([e], kind))
        for i, (e, t) in enumerate(zip(chosen, concat.inputs, strict=True))
    ]
    node.op, node.attrs = "Concat", {"axis": 0}
    return True


RULES: tuple[Rule, ...] = (Rule("shape_choice", ("Where",), choose),)
"""The rule."""

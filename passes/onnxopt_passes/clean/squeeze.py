"""Squeeze and Unsqueeze in a row.

Unsqueeze(Squeeze(x, a), a)      -> x
Squeeze(Unsqueeze(x, a), b)      -> x, or what is left of the longer of the two
Unsqueeze(Unsqueeze(x, a), b)    -> Unsqueeze(x, both)
Squeeze(Squeeze(x, a), b)        -> Squeeze(x, both)

Each list counts axes in a tensor of its own rank; merged ones are renumbered. Where one counts
from the end, the rank has to be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs


def cancel_axes(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop an Unsqueeze and a Squeeze of the same axes."""
    pair = _pair(node)
    if pair is None or pair[0].op == node.op:
        return False
    inner, first, second = pair
    wide = inner.inputs[0] if inner.op == "Squeeze" else inner.outputs[0]
    return axes.same(first, second, axes.rank(wide)) and bypass(graph, node, inner.inputs[0])


def shorten_axes(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one of an Unsqueeze and the Squeeze of some of its axes, or of these and more."""
    pair = _pair(node)
    if pair is None or (pair[0].op, node.op) != ("Unsqueeze", "Squeeze"):
        return False
    inner = pair[0]
    rank = axes.rank(inner.outputs[0])
    added, dropped = axes.normal(pair[1], rank), axes.normal(pair[2], rank)
    if added is None or dropped is None or match.sole(graph, node.inputs[0]) is None:
        return False
    if not (set(added) < set(dropped) or set(dropped) < set(added)):
        return False

    if len(added) > len(dropped):
        out = node.outputs[0]
        match.remove(node)
        inner.outputs = [out]
        axes.set_axes(graph, inner, _closed_up(added, dropped))
    else:
        node.inputs = [inner.inputs[0], *node.inputs[1:]]
        axes.set_axes(graph, node, _closed_up(dropped, added))
    return True


def merge_axes(graph: gs.Graph, node: gs.Node) -> bool:
    """Make one of two Squeezes or two Unsqueezes in a row."""
    pair = _pair(node)
    if pair is None or pair[0].op != node.op or match.sole(graph, node.inputs[0]) is None:
        return False
    inner = pair[0]
    nearer = node.outputs[0] if node.op == "Unsqueeze" else inner.outputs[0]
    further = inner.outputs[0] if node.op == "Unsqueeze" else inner.inputs[0]
    first, second = (
        axes.normal(pair[1], axes.rank(further)),
        axes.normal(pair[2], axes.rank(nearer)),
    )
    if first is None or second is None:
        return False
    if node.op == "Unsqueeze":
        both = [*_spread(first, second), *second]
    else:
        both = [*first, *_spread(second, first)]

    node.inputs = [inner.inputs[0], *node.inputs[1:]]
    axes.set_axes(graph, node, sorted(both))
    return True


def _pair(node: gs.Node) -> tuple[gs.Node, list[int], list[int]] | None:
    """Return the Squeeze or Unsqueeze above one, and the axes of both; None if any is unknown."""
    inner = match.producer(node.inputs[0])
    if inner is None or not match.is_op(inner, "Squeeze", "Unsqueeze"):
        return None
    first, second = (
        axes.squeezed(n) if n.op == "Squeeze" else axes.axes_of(n) for n in (inner, node)
    )
    return (inner, first, second) if first and second else None


def _closed_up(kept: Sequence[int], gone: Sequence[int]) -> list[int]:
    """Return the axes of `kept` that are not in `gone`, renumbered without the latter."""
    return [k - sum(g < k for g in gone) for k in sorted(kept) if k not in gone]


def _spread(chosen: Sequence[int], among: Sequence[int]) -> list[int]:
    """Return axes as they are numbered once those of `among` are put in."""
    free = [i for i in range(max(chosen) + len(among) + 1) if i not in among]
    return [free[c] for c in chosen]


RULES: tuple[Rule, ...] = (
    Rule("cancel_axes", ("Squeeze", "Unsqueeze"), cancel_axes),
    Rule("shorten_axes", ("Squeeze",), shorten_axes),
    Rule("merge_axes", ("Squeeze", "Unsqueeze"), merge_axes),
)
"""In the order in which they are tried."""

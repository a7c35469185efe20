"""The graph beside its list of nodes: each tensor is a line from its maker to its readers.

Lines are drawn as `git log --graph` draws branches: a row a node, in the order in which they run,
and lanes from left to right. So a graph of any size can be looked through, and a residual
connection is a line beside the layers that it spans. Weights and inputs of the model are left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from markupsafe import Markup

MOST = 12
"""Lanes that are drawn; what lies further right shares the last one."""

STEP = 12
HEIGHT = 20


@dataclass
class Row:
    """What is drawn beside a node, as numbers of lanes.

    Attributes:
        lane: Where the node is.
        through: Tensors that pass it.
        enter: Tensors that it reads, from above.
        leave: Tensors that it makes, to below.
    """

    lane: int
    through: list[int] = field(default_factory=list)
    enter: list[int] = field(default_factory=list)
    leave: list[int] = field(default_factory=list)


def rows(nodes: list[dict[str, Any]]) -> list[Row]:
    """Lay nodes out, each graph and body by itself.

    Args:
        nodes: As `outline.nodes` gives them.
    """
    found: list[Row] = [Row(0)] * len(nodes)
    scopes: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        scopes[node["graph"]].append(index)
    for indices in scopes.values():
        for index, row in zip(indices, _scope([nodes[i] for i in indices]), strict=True):
            found[index] = row
    return found


def _scope(nodes: list[dict[str, Any]]) -> Iterable[Row]:
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        last.update((name, position) for name in node["inputs"])
    lanes: dict[str, int] = {}
    for position, node in enumerate(nodes):
        read = dict.fromkeys(name for name in node["inputs"] if name in lanes)
        enter = [lanes[name] for name in read]
        for name in read:
            if last[name] == position:
                del lanes[name]
        lane = next((at for at in enter if at not in lanes.values()), _free(lanes))
        row = Row(lane, list(lanes.values()), enter)
        for name in dict.fromkeys(node["outputs"] if node["op"] != "Constant" else ()):
            if name and last.get(name, -1) > position:
                taken = lane in lanes.values()
                lanes[name] = _free(lanes) if taken else lane
                row.leave.append(lanes[name])
        yield row


def _free(lanes: dict[str, int]) -> int:
    used = set(lanes.values())
    return next(lane for lane in range(len(used) + 1) if lane not in used)


def draw(row: Row) -> Markup:
    """Return a row as SVG that fills its cell, however high that is."""
    from markupsafe import Markup

    width = _right(row)
    middle, x = HEIGHT // 2, _x(row.lane)
    lines = [f"M{_x(at)} 0V{HEIGHT}" for at in row.through]
    lines += [f"M{_x(at)} 0L{x} {middle}" for at in row.enter]
    lines += [f"M{x} {middle}L{_x(at)} {HEIGHT}" for at in row.leave]
    return Markup(
        f'<svg aria-hidden="true" style="width:{width}px" viewBox="0 0 {width} {HEIGHT}"'
        f' preserveAspectRatio="none"><path d="{"".join(lines)}"/>'
        f'<path class="dot" d="M{x} {middle}h0"/></svg>'
    )


def width(laid: list[Row]) -> int:
    """Return the pixels that the widest row takes."""
    return max((_right(row) for row in laid), default=STEP)


def _right(row: Row) -> int:
    return _x(max((row.lane, *row.through, *row.enter, *row.leave))) + STEP // 2


def _x(lane: int) -> int:
    return min(lane, MOST) * STEP + STEP // 2

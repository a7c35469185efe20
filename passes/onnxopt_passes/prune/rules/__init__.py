"""What each operator does to axes: one table, operator to rule.

A rule is a function `(sheet, node) -> None`. It reads the axes of the node's inputs with
`sheet.axes`, says which are the same with `sheet.unify` and which must stay with `sheet.freeze`,
names the numbers that follow with `sheet.number`, and sets the axes of the outputs with
`sheet.put`. Where it meets what it does not know it raises `Standback`: all axes at the node are
then frozen. An operator without a rule is frozen and named.

Other distributions add rules for operators of theirs with entry points of the group
`onnxopt.prune_rules`: `"my.domain::MyOp" = "package:rule"`. Without a domain it is a standard op.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeAlias

from onnxopt.errors import PassError
from onnxopt.match import STANDARD
from onnxopt_passes.prune.rules import (
    layers,
    layout,
    parts,
    pointwise,
    recurrent,
    reshape,
    statistics,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.sheet import Sheet

    Rule: TypeAlias = Callable[[Sheet, gs.Node], None]

GROUP = "onnxopt.prune_rules"

RULES: dict[str, Rule] = {
    **layers.RULES,
    **layout.RULES,
    **parts.RULES,
    **pointwise.RULES,
    **recurrent.RULES,
    **reshape.RULES,
    **statistics.RULES,
    **windows.RULES,
}
"""Rules for standard ops."""

SPELLED_STANDARD = {"com.microsoft::Gelu": RULES["Gelu"], "com.microsoft::QuickGelu": RULES["Gelu"]}
"""Rules for ops of other domains that onnxruntime has."""


def find(node: gs.Node) -> Rule | None:
    """Return the rule for a node; None where its operator has none."""
    name = node.op if node.domain in STANDARD else f"{node.domain}::{node.op}"
    if node.domain in STANDARD and name in RULES:
        return RULES[name]
    return SPELLED_STANDARD.get(name) or declared().get(name)


@cache
def declared() -> dict[str, Rule]:
    """Return the rules that installed distributions declare.

    Raises:
        PassError: One cannot be imported.
    """
    found: dict[str, Rule] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            found[entry.name] = entry.load()
        except (ImportError, AttributeError) as e:
            raise PassError(f"the prune rule {entry.name!r} cannot be imported: {e}") from e
    return found

"""Axes of a whole graph, and the groups in them.

One pass over the nodes in the order of the data flow: O(nodes x axes), whatever the widths.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.model.layout import in_order, reads
from onnxopt_passes.prune import positions, rules
from onnxopt_passes.prune.groups import Group, Member, Role
from onnxopt_passes.prune.lengths import refine
from onnxopt_passes.prune.origins import freeze_computed, freeze_numbers
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt_passes.prune.axes import Var
    from onnxopt_passes.prune.observe import Lengths


PLAIN = ("spatial axis", "gates", "directions")
"""Reasons that go without saying."""


@dataclass(frozen=True)
class Analysis:
    """What a graph says about its axes.

    Attributes:
        model: The model; its graph must not be edited while this is in use.
        sheet: Axes of all tensors.
        groups: All groups with a weight, the frozen ones too, in the order of the graph; but not
            the taps of kernels, nor the gates of an LSTM.
        variables: The variable of each group, by its name.
        unknown: Operators without a rule, and the names of their nodes.
    """

    model: Model
    sheet: Sheet
    groups: tuple[Group, ...]
    variables: dict[str, Var]
    unknown: dict[str, tuple[str, ...]]

    @property
    def free(self) -> tuple[Group, ...]:
        """Groups of which something may go."""
        return tuple(g for g in self.groups if g.frozen is None)


def analyse(model: Model, soft: bool = False, observed: Lengths | None = None) -> Analysis:
    """Find the groups of a model. The model is not changed, but shapes are inferred anew.

    Args:
        model: The model.
        soft: Whether groups over which a mean is taken may be cut; else they are frozen.
        observed: Lengths of axes that runs have shown, by the names of tensors.
    """
    match.stamp(model.graph)
    shapes.infer(model)
    order = in_order(model.graph)
    refine(order, observed)
    sheet = Sheet(model.opset)
    unknown: dict[str, list[str]] = defaultdict(list)
    for node in order:
        _apply(sheet, node, unknown)
    for node in order:
        if match.is_op(node, "Shape"):
            freeze_computed(sheet, node)
    for tensor in model.graph.outputs:
        sheet.block(tensor, "model output")
    groups, variables = _groups(sheet, order, soft)
    found = {op: tuple(names) for op, names in unknown.items()}
    return Analysis(model, sheet, groups, variables, found)


def _apply(sheet: Sheet, node: gs.Node, unknown: dict[str, list[str]]) -> None:
    rule = rules.find(node)
    label = f"{node.op} {ir.label(node)!r}"
    has_bodies = bool(node.attrs) and any(True for _ in ir.bodies(node))
    if has_bodies:
        _block(sheet, node, f"read or made by the bodies of {label}")
    elif rule is None:
        domain = "" if node.domain in match.STANDARD else f"{node.domain}::"
        unknown[f"{domain}{node.op}"].append(ir.label(node))
        _block(sheet, node, f"no rule for {label}")
    else:
        try:
            freeze_numbers(sheet, node)
            rule(sheet, node)
        except (Standback, IndexError, ValueError) as e:
            _block(sheet, node, f"{e} ({label})")


def _block(sheet: Sheet, node: gs.Node, reason: str) -> None:
    for tensor in (*reads(node), *(t for t in node.outputs if t.name)):
        sheet.block(tensor, reason)


def _groups(
    sheet: Sheet, order: list[gs.Node], soft: bool
) -> tuple[tuple[Group, ...], dict[str, Var]]:
    reader: dict[int, gs.Node] = {}
    for node in order:
        for tensor in node.inputs:
            reader.setdefault(id(tensor), node)
    members: dict[Var, list[Member]] = {}
    place = {id(node): i for i, node in enumerate(order)}
    constants = [
        (t, found) for t, found in sheet.tensors() if isinstance(t, ir.Constant) and id(t) in reader
    ]
    constants.sort(key=lambda item: place[id(reader[id(item[0])])])
    for tensor, found in constants:
        for i, axis in enumerate(found):
            role = sheet.roles.get((id(tensor), i), Role.PASS)
            for var, columns in positions.columns(axis).items():
                if (var.frozen or "").startswith(PLAIN):
                    continue
                member = Member(reader[id(tensor)], tensor, i, role, columns)
                members.setdefault(var, []).append(member)
    groups: list[Group] = []
    variables: dict[str, Var] = {}
    for var, found_members in members.items():
        name = _name(found_members, variables)
        variables[name] = var
        frozen = var.frozen or (None if soft else var.soft)
        members_found = tuple(found_members)
        groups.append(Group(name, var.size or 0, members_found, var.head, frozen, var.soft))
    return tuple(groups), variables


def _name(members: list[Member], taken: dict[str, Var]) -> str:
    """Name a group by the first weight that makes its indices, else by the first weight."""
    makers = [m for m in members if m.role is Role.PRODUCER] or members
    base = makers[0].constant.name
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}#{count}"
    return name

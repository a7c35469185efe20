"""Groups in blocks: the width within the groups of a Conv, or within the heads of an attention.

Where every tensor that runs along a width runs along the blocks too, nothing says that one index
has to go in all blocks: only their number has to be one. So before a cut each block may be recast
by itself, its indices permuted or, where all is linear, mapped by an invertible matrix A:

    makers  W_b <- A_b^T W_b,     readers  W_b <- A_b^-1 W_b

The model computes the same as before, and one index of the group then stands for another channel
in each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune import axes, positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt_passes.prune.analysis import Analysis
    from onnxopt_passes.prune.axes import Axis, Var
    from onnxopt_passes.prune.groups import Group, Member


@dataclass(frozen=True)
class Place:
    """Where a width and its blocks lie in one weight.

    Attributes:
        member: The axis of a weight that the width runs along.
        columns: For each block int64 (n, k): positions along that axis of each of its n indices.
        across: Where the blocks lie along another axis: that axis, and for each block its
            positions there. All blocks then have the same columns.
    """

    member: Member
    columns: tuple[np.ndarray, ...]
    across: tuple[int, tuple[np.ndarray, ...]] | None = None

    def recast(self, make: Callable[[int, int, np.ndarray], np.ndarray]) -> None:
        """Give the weight other values.

        Args:
            make: Takes a block, a column of its `columns`, and the slices there, (n, ...); returns
                what to write there.
        """
        constant, axis = self.member.constant, self.member.axis
        values = np.array(constant.values)
        view = np.moveaxis(values, axis, 0)
        if self.across is not None:
            view = np.moveaxis(view, self.across[0] + (self.across[0] < axis), 1)
        for block, columns in enumerate(self.columns):
            for i, places in enumerate(columns.T):
                at = places if self.across is None else np.ix_(places, self.across[1][block])
                view[at] = make(block, i, view[at])
        constant.values = values


@dataclass(frozen=True)
class Blocks:
    """A group that has blocks.

    Attributes:
        group: The group: the width within a block.
        block: The variable of the blocks.
        places: Where the two lie, in the order of the group's members.
    """

    group: Group
    block: Var
    places: tuple[Place, ...]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return self.block.size or 0


def find(analysis: Analysis) -> list[Blocks]:
    """Return the groups each block of which may be recast by itself, in the order of the graph."""
    beside = _beside(analysis)
    indexed = {v for item in analysis.sheet.indices for v in axes.leaves(item.source)}
    found = []
    for group in analysis.groups:
        var = analysis.variables[group.name].root()
        if group.frozen is not None or var in indexed:
            continue
        for block in sorted(beside.get(var, ()), key=lambda v: -(v.size or 0)):
            places = [_place(analysis, member, block) for member in group.members]
            if all(places):
                found.append(Blocks(group, block, tuple(p for p in places if p is not None)))
                break
    return found


def _beside(analysis: Analysis) -> dict[Var, list[Var]]:
    """Return, for each variable, those that every tensor has that has it."""
    found: dict[Var, list[Var]] = {}
    for _, shape in analysis.sheet.tensors():
        here = list(dict.fromkeys(v for axis in shape for v in axes.leaves(axis)))
        for var in here:
            known = found.get(var)
            others = [v for v in here if v is not var and (v.size or 0) > 1]
            found[var] = others if known is None else [v for v in known if v in others]
    return found


def _place(analysis: Analysis, member: Member, block: Var) -> Place | None:
    """Return where a width and its blocks lie in a weight; None where the blocks are mixed."""
    shape = analysis.sheet.axes(member.constant)
    holders = [i for i, axis in enumerate(shape) if block in axes.leaves(axis)]
    if not holders:
        return None
    inside = member.axis in holders
    of = _owner(shape[member.axis if inside else holders[0]], block)
    blocks = range(block.size or 0)
    if inside:
        of = of[member.columns]
        parts = tuple(member.columns[:, of[0] == b] for b in blocks)
        even = len({part.shape for part in parts}) == 1
        return Place(member, parts) if even and (of >= 0).all() and (of == of[0]).all() else None
    if len(holders) > 1 or (of < 0).any():
        return None
    rows = tuple(np.flatnonzero(of == b) for b in blocks)
    return Place(member, (member.columns,) * len(rows), (holders[0], rows))


def _owner(axis: Axis, var: Var) -> np.ndarray:
    """Return which index of a variable each position of an axis belongs to; -1 for none."""
    found = np.full(axes.size(axis) or 0, -1)
    for index, places in enumerate(positions.columns(axis)[var]):
        found[places] = index
    return found

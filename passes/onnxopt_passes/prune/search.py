"""How far to cut: widths for a budget, or the largest cut that keeps the answers.

Widths are proposed from error curves, several ways; the proposals are cut, fitted on a part of the
samples and judged by what they do to the outputs on samples set aside. Costs are predicted while
widths are chosen, and measured on the cut model; the prediction is corrected until they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.allocate import Choices, Costs, Work, least_error, uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnxopt_passes.prune.collect import Read
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.judge import Judgement
    from onnxopt_passes.prune.obs import Ranking
    from onnxopt_passes.prune.surfaces import Surface

ROUNDS = 6
"""Corrections of a predicted cost, at most."""

NEAR = 0.02
"""Share of the budget that a measured cost may stay below it."""

NOTHING = 1e-6
"""Smallest divergence that is told from none: a curve of zeros would give channels away."""

BISECTIONS = 5
"""Cuts that are tried to find the largest one that holds."""

LEAST = 0.1
"""Share of the cost below which nothing is tried."""


@dataclass(frozen=True)
class Space:
    """The groups that are open to a choice, and what widths cost.

    Attributes:
        groups: In the order of all lists of widths.
        rankings: Of each of them.
        choices: The same, as allocation sees them.
        costs: Predicted cost at any widths.
    """

    groups: Sequence[Group]
    rankings: Sequence[Ranking]
    choices: Sequence[Choices]
    costs: Costs

    def keeps(self, widths: Sequence[int]) -> dict[str, np.ndarray]:
        """Return which indices stay, by group; groups of full width have no entry."""
        return {
            group.name: ranking.kept(width)
            for group, ranking, width in zip(self.groups, self.rankings, widths, strict=True)
            if width < group.size
        }

    def proposal(self, share: float) -> list[int]:
        """Return the widths of least error within a share of the full cost."""
        return least_error(self.choices, self.costs, share * self._whole())

    def equal(self, share: float) -> list[int]:
        """Return equal shares of all groups within a share of the full cost."""
        return uniform(self.choices, self.costs, share * self._whole())

    def _whole(self) -> float:
        return self.costs.total([c.size for c in self.choices])

    def calibrated(
        self, widths: Sequence[int], divergence: Callable[[Sequence[int]], float]
    ) -> Space:
        """Return the same groups with curves in units of divergence.

        Each curve is scaled so that it says, at one width, what cutting this group alone does to
        the outputs.

        Args:
            widths: Where each group is measured; one at full width keeps its curve.
            divergence: Of the model cut to given widths, not fitted.
        """
        full = [c.size for c in self.choices]
        choices = []
        for i, choice in enumerate(self.choices):
            error, scale = choice.error(widths[i]), 1.0
            if error > 0:
                measured = divergence([*full[:i], widths[i], *full[i + 1 :]])
                scale = max(measured, NOTHING) / error if np.isfinite(measured) else scale
            choices.append(replace(choice, errors=choice.errors * scale))
        return replace(self, choices=choices)

    def kept(self) -> Space:
        """Return the same groups, none of which may lose its branch."""
        choices = [replace(c, widths=tuple(w for w in c.widths if w)) for c in self.choices]
        return replace(self, choices=choices)

    def halves(self) -> list[int]:
        """Return the width of each group nearest to half that is below its full one."""
        return [min(c.widths[:-1], key=lambda w: (abs(w - c.size / 2), w)) for c in self.choices]


def propose(
    place: Space,
    met: Callable[[Callable[[float], list[int]]], list[int]],
    divergence: Callable[[Sequence[int]], float],
) -> list[list[int]]:
    """Return different widths at the same cost.

    With all branches kept: the widths of least error; those of least divergence as it was measured
    for each group alone, at half its width and then at the width that came out; and equal shares.
    Then the second and third with branches that may go: curves say little about the end of a
    branch, and the other groups are worse off where one goes in vain.

    Args:
        place: The groups.
        met: Given what makes widths from a predicted share, returns those that meet the budget.
        divergence: Of the model cut to given widths, not fitted.
    """
    measured = place.calibrated(place.halves(), divergence)
    found = [met(place.kept().proposal)]
    for first in (measured.kept(), measured):
        start = met(first.proposal)
        found += [start, met(first.calibrated(start, divergence).proposal)]
    found.insert(3, met(place.kept().equal))
    return [w for i, w in enumerate(found) if w not in found[:i]]


def space(
    groups: Sequence[Group],
    rankings: Mapping[str, Ranking],
    allowed: Callable[[Group], tuple[int, ...]],
    works: Callable[[Sequence[Group]], list[Work]],
) -> Space:
    """Return the groups that have a ranking and more than one width to choose from.

    Args:
        groups: All groups.
        rankings: By name of the group.
        allowed: The widths that a group may take, ascending, its size among them.
        works: What costs something, with groups by their index in the sequence given.
    """
    menus = {g.name: allowed(g) for g in groups if g.frozen is None and g.name in rankings}
    chosen = [g for g in groups if len(menus.get(g.name, ())) > 1]
    ranked = [rankings[g.name] for g in chosen]
    choices = [
        Choices(g.size, r.errors, menus[g.name]) for g, r in zip(chosen, ranked, strict=True)
    ]
    return Space(chosen, ranked, choices, Costs(works(chosen), [g.size for g in chosen]))


def works(
    groups: Sequence[Group],
    amounts: Mapping[str, float],
    surfaces: Mapping[str, Surface] | None = None,
) -> list[Work]:
    """Return what weights cost, with the groups that run along their axes 0 and 1.

    Args:
        groups: The groups that are open to a choice.
        amounts: Cost at full width, by name of the weight.
        surfaces: Cost at any widths, of weights whose cost is not proportional to them.
    """
    shares: dict[str, dict[int, dict[int, float]]] = {name: {} for name in amounts}
    for index, group in enumerate(groups):
        for member in group.members:
            name = member.constant.name
            if name in amounts and member.axis < 2:
                per = member.columns.shape[1] / member.constant.shape[member.axis]
                axis = shares[name].setdefault(member.axis, {})
                axis[index] = axis.get(index, 0.0) + per
    found = []
    for name, amount in amounts.items():
        cut = sorted(shares[name])
        surface = (surfaces or {}).get(name)
        at = surface.along(cut) if surface is not None else None
        found.append(Work(amount, tuple(shares[name][axis] for axis in cut), at))
    return found


def multiplications(reads: Mapping[str, Read]) -> dict[str, float]:
    """Return MACs of layers by name of the weight."""
    layers = [(read.layer, read.positions) for read in reads.values()]
    return {x.weight.name: positions * float(np.prod(x.shape)) for x, positions in layers}


def parameters(reads: Mapping[str, Read]) -> dict[str, float]:
    """Return the same for parameters."""
    return {r.layer.weight.name: float(r.layer.weight.values.size) for r in reads.values()}


def best(
    proposals: Iterable[Sequence[int]], judged: Callable[[Sequence[int]], Judgement]
) -> tuple[list[int], Judgement]:
    """Return the widths whose answers are nearest to the source's; the first of equals.

    Args:
        proposals: Widths; at least one.
        judged: Cuts a model to widths, fits it, and judges it.
    """
    found = [(list(widths), judged(widths)) for widths in proposals]
    return min(found, key=lambda pair: pair[1].divergence)


def within(
    proposal: Callable[[float], list[int]],
    share: float,
    measured: Callable[[Sequence[int]], float],
    rounds: int = ROUNDS,
) -> float:
    """Return the predicted share whose widths cost the given share when it is measured.

    Args:
        proposal: Makes widths from a predicted share.
        share: Of the cost of the source.
        measured: Measures the cost at given widths, as a share of the source's.
        rounds: Measurements, at most.

    Returns:
        A predicted share whose proposal is within the budget and near it; the lowest that was tried
        where none is within it.
    """
    low, high, asked = 0.0, 1.0, share
    kept, least = None, share
    for _ in range(rounds):
        got = measured(proposal(asked))
        least = min(least, asked)
        if got <= share:
            low, kept = asked, asked
            if got >= share - NEAR:
                break
        else:
            high = asked
        slope = asked * share / max(got, 1e-9)
        asked = slope if low < slope < high else (low + high) / 2
    return least if kept is None else kept


def largest(
    proposals: Callable[[float], Iterable[Sequence[int]]],
    judged: Callable[[Sequence[int]], Judgement],
    max_drop: float,
) -> tuple[list[int], float] | None:
    """Return the widths of least cost whose answers hold, and their predicted share.

    Args:
        proposals: Widths within a share of the cost.
        judged: Cuts a model to widths, fits it, and judges it.
        max_drop: What the score may fall by.

    Returns:
        None where not even the mildest cut that was tried holds.
    """
    low, high = LEAST, 1.0
    found: tuple[list[int], float] | None = None
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        widths, judgement = best(proposals(share), judged)
        if judgement.drop <= max_drop and np.isfinite(judgement.divergence):
            found, high = (widths, share), share
        else:
            low = share
    return found

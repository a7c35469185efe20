"""How much each unit's integers cost, and which go back to float until the metric holds.

The error of a group of units is the noise of outputs where that group alone is quantized, measured
on samples that nothing was fitted to. A group is a region of units that read each other's integers,
or a run of them where a region is large, so that large models take no longer than small ones.

Each price of error gives a cheapest plan, and plans shrink as the price rises: the largest that
holds is found by bisection. Errors that were measured alone do not add up, and a step of the price
can take many groups at once: those between the two last plans are tried one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnxopt.model import Exported
    from onnxopt_passes.quant.trial import Trial
    from onnxopt_passes.quant.units import Unit

    Build = Callable[[Collection[str]], Exported]
    """Makes the model with these units in integers."""

    Groups = Sequence[Sequence[str]]
    """Units whose errors are measured together."""

    Recut = Callable[[set[str], Mapping[str, float], float], set[str]]
    """(units, share of each in all error, price of all error) -> units that stay in integers."""

GROUPS = 48
"""Groups whose errors are measured, about."""

FEW = 8
"""Samples for the error of one group."""

MOST = 16
"""Groups that are tried one by one, those of least error first."""

PRICES = tuple(0.02 * 1.4**i for i in range(24))
"""What all error costs together, in units of the time that integers save."""


def groups(found: Sequence[Unit]) -> Groups:
    """Return units by regions, those of more than a share of all units in runs."""
    network = nx.Graph()
    network.add_nodes_from(u.name for u in found)
    makers = {id(u.output): u.name for u in found}
    for unit in found:
        above = (makers.get(id(t)) for t in unit.inputs)
        network.add_edges_from((unit.name, name) for name in above if name is not None)
    order = {u.name: i for i, u in enumerate(found)}
    most = max(1, -(-len(found) // GROUPS))
    split = []
    for region in nx.connected_components(network):
        names = sorted(region, key=order.__getitem__)
        split += [names[i : i + most] for i in range(0, len(names), most)]
    return sorted(split, key=lambda names: order[names[0]])


@dataclass(frozen=True)
class Search:
    """Looks for the most integers that a metric holds with.

    Attributes:
        build: Makes a candidate.
        trial: What candidates are held to.
        limit: How far the metric may fall.
        recut: Chooses what stays at a price of error.
    """

    build: Build
    trial: Trial
    limit: float
    recut: Recut

    def holds(self, plan: set[str]) -> bool:
        """Whether the metric falls by no more than the limit."""
        return not plan or self.trial.drop(self.build(plan), self.limit) <= self.limit

    def errors(self, parts: Groups, samples: int = FEW) -> dict[str, float]:
        """Return the noise that each unit causes alone; units of a group share theirs evenly."""
        found: dict[str, float] = {}
        for part in parts:
            noise = self.trial.judge(self.build(part), samples).noise
            found.update(dict.fromkeys(part, noise / len(part)))
        return found

    def shrink(self, parts: Groups) -> tuple[set[str], dict[str, float]]:
        """Give units back to float, worst first by error and time, until the metric holds.

        Args:
            parts: Units in integers to begin with, by groups.

        Returns:
            The units that stay in integers, none if no plan holds, and the errors if they were
            needed.
        """
        chosen = {name for part in parts for name in part}
        if not chosen or self.holds(chosen):
            return chosen, {}
        noises = self.errors(parts)
        total = sum(noises.values()) or 1.0
        shares = {name: noise / total for name, noise in noises.items()}
        plans: list[set[str]] = [chosen]
        for price in PRICES:
            left = self.recut(plans[-1], shares, price)
            if left != plans[-1]:
                plans.append(left)
        fails, holds = 0, len(plans)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if self.holds(plans[middle]):
                holds = middle
            else:
                fails = middle
        return (plans[holds] if holds < len(plans) else set()), noises

    def regain(self, kept: set[str], parts: Groups, noises: Mapping[str, float]) -> set[str]:
        """Try groups that went to float one by one, those of least error first.

        Args:
            kept: Units in integers, with which the metric holds.
            parts: All units that may be.
            noises: Their errors.

        Returns:
            What of it is faster in integers and holds, with what was kept.
        """
        lost = [names for part in parts if (names := set(part) - kept)]
        lost.sort(key=lambda names: (sum(noises[name] for name in names), min(names)))
        left = MOST
        for names in lost:
            if not left:
                break
            wider = self.recut(kept | names, {}, 0.0)
            if wider <= kept:
                continue
            left -= 1
            if self.holds(wider):
                kept = wider
        return kept


def drop_worst(kept: set[str], shares: Mapping[str, float], price: float) -> set[str]:
    """Take the worst units out, where no times are known: one, then ever more of what is left."""
    if not price:
        return kept
    step = 1 + PRICES.index(price)
    order = sorted(kept, key=lambda name: (-shares.get(name, 0.0), name))
    return set(order[1 + len(order) * step // len(PRICES) :])

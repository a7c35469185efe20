"""Plans timed as a whole, since what a unit takes depends on the layout that its neighbours leave.

    time of a plan = sum of the microseconds of all nodes that onnxruntime runs

onnxruntime computes integer convolutions channels-last, and carries that layout through sums, pools
and concatenations only where it counts a gain at once. One convolution in float at the head of a
chain of residual sums leaves two Transposes in each block; a MaxPool of integers takes thirty times
as long where it is left channels-first. The minimum cut adds up units and borders, measured with
everything in integers, and sees neither. So its plan is profiled, and changed in two ways:

    open    units are charged what they take in this plan, and the cut is made again
    close   a gap, units in float that read each other, goes to integers: all gaps, or one by one

A change stays where the time of the plan falls by more than two profiles differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from onnxopt import deployed
from onnxopt.runtime import Settings
from onnxopt_passes.quant import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    from onnxopt.deployed import Cost
    from onnxopt.model import Exported
    from onnxopt_passes.quant.cut import Times
    from onnxopt_passes.quant.units import Unit

CLEARLY = 0.99
"""Share of a plan's time that a change has to stay under."""

SLOWER = 2.0
"""A unit that takes so many times what it took with everything in integers is charged with that."""

MOST = 6
"""Gaps that are tried one by one, those first whose units lose the least."""

ROUNDS = 3
"""How often units are charged anew."""

SECONDS = 2.0
"""What a profile takes, about; slow models are run less often, but `FEW` times."""

FEW = 4
"""Runs of a profile, at least."""


@dataclass(frozen=True)
class Settler:
    """Times plans.

    Attributes:
        build: Makes the model with some units in integers, its nodes named by units.
        found: All units.
        feed: One set of inputs.
        threads: Threads of the sessions.
        seconds: What the model takes in float, about.
    """

    build: Callable[[Collection[str]], Exported]
    found: Sequence[Unit]
    feed: Mapping[str, Any]
    threads: int
    seconds: float

    def open(
        self, kept: set[str], times: Times, recut: Callable[[set[str], Times], set[str]]
    ) -> tuple[set[str], Times]:
        """Take out of a plan what is slow in it.

        Args:
            kept: Units in integers.
            times: What units cost.
            recut: Makes the cut again, among units that are kept, with other times.

        Returns:
            The plan, and times that tell the cut why.

        Raises:
            CannotRun: onnxruntime refuses a model.
        """
        for _ in range(ROUNDS):
            charged = self._charged(kept, times)
            other = recut(kept, charged) if charged != times else kept
            if other == kept or self._gain(kept, other) <= 0:
                break
            kept, times = other, charged
        return kept, times

    def close(self, kept: set[str], times: Times) -> tuple[set[str], Times]:
        """Bring gaps of float into a plan where that makes the whole faster.

        Args:
            kept: Units in integers.
            times: What units cost.

        Returns:
            The plan, and times that tell the cut why: what a gap saves is added to what its units
            take in float.

        Raises:
            CannotRun: onnxruntime refuses a model.
        """
        gaps = self._gaps(kept, times) if kept else []
        every = set().union(*gaps)
        for gap in [every, *gaps[:MOST]] if len(gaps) > 1 else gaps:
            gain = self._gain(kept, kept | gap)
            if gain > 0:
                kept, times = kept | gap, self._favoured(gap, gain, times)
            if gain > 0 and gap is every:
                break
        return kept, times

    def _gain(self, before: Collection[str], after: Collection[str]) -> float:
        """Return the microseconds that the second plan saves; zero unless it clearly does."""
        found = self._profiles(before, after)
        old, new = (sum(cost.microseconds for cost in costs.values()) for costs in found)
        return old - new if new < CLEARLY * old else 0.0

    def _profiles(self, *plans: Collection[str]) -> list[dict[str, Cost]]:
        runs = int(SECONDS / max(self.seconds, 1e-6))
        runs = min(max(runs, FEW), deployed.RUNS)
        models = [self.build(plan) for plan in plans]
        return deployed.times(models, Settings(True, self.threads), self.feed, runs)

    def _charged(self, kept: Collection[str], times: Times) -> Times:
        """Return times with those of this plan where they are far above what they were."""
        units = [u for u in self.found if u.name in kept]
        (costs,) = self._profiles(kept)
        now = audit.by_unit(costs, units)
        most = {n: max(SLOWER * times.integers[n], audit.FIXED) for n in now if n in times.integers}
        slow = {name: now[name] for name, limit in most.items() if now[name] > limit}
        return replace(times, integers={**times.integers, **slow}) if slow else times

    def _gaps(self, kept: Collection[str], times: Times) -> list[set[str]]:
        """Return units outside a plan that have integers, by what hangs together."""
        outside = [u for u in self.found if u.name in times.integers and u.name not in kept]
        network = nx.Graph()
        network.add_nodes_from(u.name for u in outside)
        makers = {id(t): u.name for u in outside for t in (u.output, *u.node.outputs)}
        for unit in outside:
            above = (makers.get(id(t)) for t in unit.inputs)
            network.add_edges_from((name, unit.name) for name in above if name is not None)
        found = [set(part) for part in nx.connected_components(network)]

        def loss(gap: set[str]) -> tuple[float, str]:
            return sum(times.integers[n] - times.floats.get(n, 0.0) for n in gap), min(gap)

        return sorted(found, key=loss)

    def _favoured(self, gap: Collection[str], gain: float, times: Times) -> Times:
        """Return times by which the cut keeps a gap in integers as long as accuracy is free."""
        units = [u for u in self.found if u.name in gap]
        names = {t.name for u in units for t in (*u.inputs, u.output)}
        extra = gain + sum(times.integers[u.name] for u in units)
        extra += sum(times.borders.get(name, 0.0) for name in names)
        able = [u.name for u in units if u.name in times.floats]
        more = {name: times.floats[name] + extra / len(able) for name in able}
        return replace(times, floats={**times.floats, **more})

"""How wide each group becomes: the least error at a given cost.

Each group has an error curve, `Ranking.errors`, and widths it may take. Starting from the full
widths, the step that adds the least error for the cost it saves is taken, until the cost is met. A
step goes to any lower width, so that flat and steep parts of a curve are passed in one: for costs
that add up over groups this is the lower convex hull, Lagrange's optimum. Costs here do not quite
add up, as a layer costs (share of its inputs) x (share of its outputs); each step is priced with
the others as they are. Width 0, where it is allowed, drops the branch that the group is inside of.

The errors must be comparable between groups: squared error as a share of the power of the tensor
that it enters, which for a layer in a residual branch is the sum, not the branch. Whatever the
curve says, candidates are then compared by what they do to the outputs: the error of a layer is a
proxy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Work:
    """What one layer, or one weight, costs.

    Attributes:
        amount: Its cost at full width: MACs, parameters, or seconds.
        axes: For each of its axes that can be cut, group -> share of the axis that one channel of
            the group holds.
        surface: Its cost by what is left of each of these axes; None where it is proportional.
    """

    amount: float
    axes: tuple[Mapping[int, float], ...] = ()
    surface: Callable[..., Any] | None = None

    def at(self, *left: Any) -> Any:
        """Return its cost with so much left of each axis; shares broadcast."""
        if self.surface is not None:
            return self.surface(*left)
        return self.amount * math.prod(left)


@dataclass(frozen=True)
class Choices:
    """A group as allocation sees it.

    Attributes:
        size: How many channels it has.
        errors: (size + 1,) the error once that many channels have gone.
        widths: Widths that it may take, ascending; `size` is one of them.
    """

    size: int
    errors: np.ndarray
    widths: tuple[int, ...]

    def error(self, width: int) -> float:
        """Return the error at a width."""
        return float(self.errors[self.size - width])


@dataclass(frozen=True)
class Costs:
    """The cost of a whole model at any widths.

    Attributes:
        works: All that costs something, cut or not.
        sizes: Full width of each group.
    """

    works: Sequence[Work]
    sizes: Sequence[int]
    _of: dict[int, list[Work]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for work in self.works:
            for group in {g for axis in work.axes for g in axis}:
                self._of.setdefault(group, []).append(work)

    def total(self, widths: Sequence[int]) -> float:
        """Return the cost of the whole model."""
        return sum(self._cost(work, widths) for work in self.works)

    def saved(self, widths: Sequence[int], group: int, others: np.ndarray) -> np.ndarray:
        """Return what it saves to bring one group to each of some other widths."""
        works = self._of.get(group, [])
        now = sum(self._cost(work, widths) for work in works)
        then = sum(
            (self._costs(work, widths, group, others) for work in works), np.zeros(len(others))
        )
        return np.asarray(now - then)

    def _cost(self, work: Work, widths: Sequence[int]) -> float:
        return float(work.at(*(self._left(axis, widths) for axis in work.axes)))

    def _costs(
        self, work: Work, widths: Sequence[int], group: int, others: np.ndarray
    ) -> np.ndarray:
        """Return the cost at other widths of one group."""
        left = []
        for axis in work.axes:
            share = axis.get(group, 0.0)
            moved = share * (widths[group] - others)
            left.append(self._left(axis, widths) - moved)
        return np.broadcast_to(work.at(*left), len(others))

    def _left(self, axis: Mapping[int, float], widths: Sequence[int]) -> float:
        """Return what is left of an axis."""
        return 1 - sum(share * (self.sizes[g] - widths[g]) for g, share in axis.items())


def uniform(choices: Sequence[Choices], costs: Costs, budget: float) -> list[int]:
    """Return the same share of every group, the largest within the budget.

    Widths are rounded to the nearest that is allowed. Where even the least is too dear it is
    returned all the same.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        if costs.total(_shared(choices, share)) > budget:
            high = share
        else:
            low = share
    return _shared(choices, low)


def _shared(choices: Sequence[Choices], share: float) -> list[int]:
    return [min(c.widths, key=lambda w: (abs(w - share * c.size), -w)) for c in choices]


def least_error(
    choices: Sequence[Choices], costs: Costs, budget: float, power: float = 1.0
) -> list[int]:
    """Return the widths of least total error within the budget.

    Args:
        choices: The groups.
        costs: The cost of the model.
        budget: What it may cost.
        power: Errors count to this power: above 1 spreads them, below 1 concentrates them.

    Returns:
        A width a group; the least of all where the budget cannot be met.
    """
    widths = [c.widths[-1] for c in choices]
    curves = [
        _Curve(np.array(c.widths), c.errors[c.size - np.array(c.widths)] ** power) for c in choices
    ]
    total = costs.total(widths)
    while total > budget:
        best = _cheapest(curves, costs, widths)
        if best is None:
            return widths
        group, width, saved = best
        total -= saved
        widths[group] = width
    return _trimmed(curves, costs, widths, budget)


@dataclass(frozen=True)
class _Curve:
    """Widths of a group, ascending, and the error at each."""

    widths: np.ndarray
    errors: np.ndarray

    def place(self, width: int) -> int:
        return int(np.searchsorted(self.widths, width))


def _cheapest(
    curves: Sequence[_Curve], costs: Costs, widths: Sequence[int]
) -> tuple[int, int, float] | None:
    """Return the step (group, width, cost saved) that adds the least error for what it saves."""
    best, least = None, np.inf
    for group, curve in enumerate(curves):
        now = curve.place(widths[group])
        lower = curve.widths[:now]
        saved = costs.saved(widths, group, lower)
        pays = np.flatnonzero(saved > 0)
        if not len(pays):
            continue
        prices = (curve.errors[pays] - curve.errors[now]) / saved[pays]
        first = int(np.argmin(prices))
        if prices[first] < least:
            step = pays[first]
            best, least = (group, int(lower[step]), float(saved[step])), prices[first]
    return best


def _trimmed(curves: Sequence[_Curve], costs: Costs, widths: list[int], budget: float) -> list[int]:
    """Widen groups again with what the last step saved beyond need, most error per cost first."""
    room = budget - costs.total(widths)
    while True:
        best, most = None, 0.0
        for group, curve in enumerate(curves):
            now = curve.place(widths[group])
            wider = curve.widths[now + 1 :]
            prices = -costs.saved(widths, group, wider)
            fits = np.flatnonzero((prices > 0) & (prices <= room))
            if not len(fits):
                continue
            gains = (curve.errors[now] - curve.errors[now + 1 :][fits]) / prices[fits]
            first = int(np.argmax(gains))
            if gains[first] > most:
                step = fits[first]
                best, most = (group, int(wider[step]), float(prices[step])), gains[first]
        if best is None:
            return widths
        group, width, price = best
        room -= price
        widths[group] = width

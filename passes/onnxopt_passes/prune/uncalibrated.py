"""Widths without samples: every group loses the same share, as far as the budget asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from onnxopt import cost
from onnxopt.errors import BudgetError, SamplesError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    import numpy as np

    from onnxopt.model import Model
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.obs import Ranking

    Cutter: TypeAlias = Callable[[Model, Mapping[str, np.ndarray]], Model]

Kind = Literal["ratio", "macs", "params", "latency", "drop"]

KINDS: tuple[Literal["ratio", "macs", "params", "latency"], ...] = (
    "ratio",
    "macs",
    "params",
    "latency",
)

STEP = 4
"""Channels off a multiple of four leave the fast layout of onnxruntime's kernels."""

HALVINGS = 7
"""Shares that are tried."""


def choose(
    source: Model,
    groups: Sequence[Group],
    rankings: Mapping[str, Ranking],
    cutter: Cutter,
    budget: tuple[Kind, float],
    least: int,
    step: int,
) -> dict[str, np.ndarray]:
    """Return the indices that stay, of groups that lose some.

    Args:
        source: The uncut model.
        groups: Groups that may be cut.
        rankings: The order in which their indices go.
        cutter: Makes a cut model.
        budget: What is limited, and how.
        least: The smallest width.
        step: Channels left in weights are multiples of it, where all of them are.

    Raises:
        SamplesError: The budget needs samples.
        BudgetError: It cannot be met.
        SpecError: It cannot be counted.
    """
    kind, value = budget

    def at(share: float) -> dict[str, np.ndarray]:
        widths = {g.name: _width(g, share, least, step) for g in groups}
        return {
            g.name: rankings[g.name].kept(widths[g.name]) for g in groups if widths[g.name] < g.size
        }

    if kind == "ratio":
        return at(1 - value)
    if kind not in ("macs", "params"):
        raise SamplesError(
            "prune: to look for the largest cut, or for a latency, give --calib samples"
        )
    whole = _count(source, kind)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        fits = _count(cutter(source, at(share)), kind) <= value * whole
        low, high = (share, high) if fits else (low, share)
    found = at(low)
    if _count(cutter(source, found), kind) > value * whole:
        raise BudgetError(f"{kind}={value:g} cannot be met: no cut leaves so little")
    return found


def _width(group: Group, share: float, least: int, step: int) -> int:
    each = min(member.columns.shape[1] for member in group.members)
    step //= math.gcd(step, each)  # a head of 16 is a multiple of four by itself
    unit = step if group.size % step == 0 else 1
    nearest = round(share * group.size / unit) * unit
    return min(max(nearest, least, unit), group.size)


def _count(model: Model, kind: str) -> int:
    found = cost.measure(model.export())
    count = found.params if kind == "params" else found.macs
    if count is None:
        raise SpecError("prune: the multiply-accumulates of this model are not known; use params=")
    return count

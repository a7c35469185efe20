"""Which weights are stored finer, as few bytes as possible, so that the metric holds.

Weights are ranked by the noise that each causes alone, a byte that it saves; the shortest beginning
of that list that has to be finer is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt_passes.quant.sensitivity import FEW

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from onnxopt.model import Exported
    from onnxopt_passes.quant.trial import Trial

    Build = Callable[[Collection[str]], Exported]
    """Makes the model with these weights as they are now, and all others finer."""

GROUPS = 64
"""Groups of neighbours whose noise is measured, at most."""


@dataclass(frozen=True)
class Coarse:
    """What may stay as it is.

    Attributes:
        names: Those that may.
        holds: Whether the metric holds with them.
        noise: What each causes alone, where that was needed.
    """

    names: frozenset[str]
    holds: bool
    noise: dict[str, float] = field(default_factory=dict)


def coarse(build: Build, saved: Mapping[str, float], trial: Trial, limit: float) -> Coarse:
    """Return which weights may stay as they are.

    Args:
        build: Makes a candidate.
        saved: Bytes that each weight saves as it is now, by name, in the model's order.
        trial: What candidates are held to.
        limit: How far the metric may fall.
    """
    if trial.drop(build(saved), limit) <= limit:
        return Coarse(frozenset(saved), True)
    if trial.drop(build(()), limit) > limit:
        return Coarse(frozenset(), False)
    noise = _noises(build, list(saved), trial)
    order = sorted(saved, key=lambda name: (-noise[name] / saved[name], name))
    fails, holds = 0, len(order)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        if trial.drop(build(order[middle:]), limit) <= limit:
            holds = middle
        else:
            fails = middle
    return Coarse(frozenset(order[holds:]), True, noise)


def _noises(build: Build, names: list[str], trial: Trial) -> dict[str, float]:
    """Return the noise that each weight causes alone; those of a group share theirs by number."""
    found: dict[str, float] = {}
    size = -(-len(names) // GROUPS)
    for start in range(0, len(names), size):
        group = names[start : start + size]
        found.update(dict.fromkeys(group, trial.judge(build(group), FEW).noise / len(group)))
    return found

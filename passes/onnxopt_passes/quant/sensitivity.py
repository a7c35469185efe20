"""How much each unit's integers cost, and which go back to float until the metric holds.

The error of a group of units is the noise of outputs where that group alone is quantized, measured
on samples that nothing was fitted to. Groups are runs of consecutive units, so that large models
take no longer than small ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnxopt.model import Exported
    from onnxopt_passes.quant.trial import Trial

    Build = Callable[[Collection[str]], Exported]
    """Makes the model with these units in integers."""

    Recut = Callable[[set[str], Mapping[str, float], float], set[str]]
    """(units, share of each in all error, price of all error) -> units that stay in integers."""

GROUPS = 32
"""Groups whose errors are measured."""

FEW = 8
"""Samples for the error of one group."""

PRICES = (0.02, 0.06, 0.2, 0.6, 2.0, 6.0, 20.0)
"""What all error costs together, in units of the time that integers save."""


def errors(build: Build, names: Sequence[str], trial: Trial) -> dict[str, float]:
    """Return the noise that each unit causes alone; units of a group share theirs evenly."""
    found: dict[str, float] = {}
    size = max(1, -(-len(names) // GROUPS))
    for start in range(0, len(names), size):
        group = names[start : start + size]
        noise = trial.judge(build(group), FEW).noise
        found.update(dict.fromkeys(group, noise / len(group)))
    return found


def hold(
    build: Build, chosen: Sequence[str], trial: Trial, limit: float, recut: Recut
) -> tuple[set[str], dict[str, float]]:
    """Give units back to float, worst first by error and time, until the metric holds.

    Args:
        build: Makes a candidate.
        chosen: Units in integers to begin with.
        trial: What candidates are held to.
        limit: How far the metric may fall.
        recut: Chooses what stays at a price of error.

    Returns:
        The units that stay in integers, none if no plan holds, and the errors if they were needed.
    """
    kept = set(chosen)
    if not kept or trial.judge(build(kept)).drop <= limit:
        return kept, {}
    noises = errors(build, chosen, trial)
    total = sum(noises.values()) or 1.0
    shares = {name: noise / total for name, noise in noises.items()}
    for price in PRICES:
        left = recut(kept, shares, price)
        if left == kept:
            continue
        kept = left
        if not kept or trial.judge(build(kept)).drop <= limit:
            return kept, noises
    return set(), noises


def drop_worst(kept: set[str], shares: Mapping[str, float], price: float) -> set[str]:
    """Take the worst units out, where no times are known: an eighth more at each price."""
    step = 1 + PRICES.index(price)
    order = sorted(kept, key=lambda name: (-shares.get(name, 0.0), name))
    return set(order[1 + len(order) * step // 8 :])

"""The fastest plan that holds: what goes back to float, and in which of two ways.

A region that pays may be too inexact as a whole, and too slow without some of its parts. Then
weighted units alone, each between a QuantizeLinear and a DequantizeLinear, can be better than what
prices of error leave of the region: both are looked for, and timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import timing
from onnxopt.runtime import Session, Settings
from onnxopt_passes.quant import sensitivity

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt_passes.quant.sensitivity import Search
    from onnxopt_passes.quant.trial import Trial
    from onnxopt_passes.quant.units import Unit

SECONDS = 3.0
"""Time spent on a comparison of two models."""

CLEARLY = 0.97
"""Share of the time of what is less of a loss that something has to stay under to be chosen."""


def hold(
    search: Search,
    able: Sequence[Unit],
    begin: Collection[str],
    ctx: Context,
    timed: bool,
) -> tuple[set[str], dict[str, float]]:
    """Return the units that stay in integers, and what was measured of their errors.

    Args:
        search: What candidates are held to.
        able: Units that may be in integers.
        begin: Names of those to begin with.
        ctx: The run.
        timed: Whether times of units are known.
    """
    parts = sensitivity.groups(able)
    first = [some for part in parts if (some := [name for name in part if name in begin])]
    kept, noise = search.shrink(first)
    if not timed or len(kept) == len(able):
        return kept, noise
    if kept:
        noise |= search.errors([part for part in parts if not noise.keys() >= set(part)])
        kept = search.regain(kept, parts, noise)
    alone = search.recut({u.name for u in able if u.weighted}, {}, 0.0)
    other, other_noise = search.shrink(sensitivity.groups([u for u in able if u.name in alone]))
    if not other or other == kept:
        return kept, noise
    if kept and not faster(search.build(kept), search.build(other), search.trial, ctx, CLEARLY)[0]:
        return kept, noise
    return other, other_noise


def faster(
    before: Exported, after: Exported, trial: Trial, ctx: Context, ratio: float = 1.0
) -> tuple[bool, str]:
    """Time two models in turn; return whether the second is faster, and both times in words.

    On one thread what counts is the thread's own time, not what other work on the machine takes.

    Args:
        before: The first model.
        after: The second.
        trial: Has inputs.
        ctx: The run.
        ratio: How much of the first's time the second may take, median and least.
    """
    settings = Settings(True, ctx.threads, ctx.custom_ops)
    sessions = [Session(m, settings) for m in (before, after)]
    clock = timing.clock(ctx.threads)
    old, new = timing.interleave(sessions, trial.feed, SECONDS, clock=clock)
    words = f"{1e3 * old.median:.3g} ms in float, {1e3 * new.median:.3g} ms in integers"
    won = new.median < ratio * old.median and new.minimum < ratio * old.minimum
    return won, words

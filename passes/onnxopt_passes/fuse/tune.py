"""Rewrites that pay only on this runtime and CPU: kept where the model at hand gets faster.

A rule is applied to the whole model; the model before and after run in turn at ORT_ENABLE_ALL, in
several rounds. A round is won if the new model takes less than 99 hundredths of the time in half of
its pairs of runs. Other work on the machine hits both runs of a pair alike; with one thread the
clock does not count it at all. Each round has sessions of its own, made in turn in either order:
two sessions of one model differ by some hundredths, for as long as they live. The rule stays if
four rounds are won and none is lost, or seven and one.

Rewrites that would make the file larger than the run's source are not kept, however fast.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import resolve, shapes, timing, trial, verdicts
from onnxopt.errors import SamplesError
from onnxopt.rewrite import edit_id
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.fuse import tentative

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model
    from onnxopt.model.interface import Port
    from onnxopt.rewrite import Rule

GAIN = 0.99
"""Ratio of times below which a round is won."""

CLEAR = 4
"""Rounds that suffice if all are won."""

MOST = 8
"""Rounds that suffice if all but one are won."""

SECONDS = 0.3
"""How long a round takes."""

DRAWS = 16
"""Inputs drawn to find one that the model runs on, where there are no samples."""

PATIENCE = 0.25
"""Seconds that one run may take; larger inputs are passed over where there are smaller ones."""

SIDES = (320, 224, 128, 64)
"""Heights and widths of images that are drawn."""

LENGTHS = (128, 512, 256, 64, 16)
"""Lengths of sequences that are drawn."""


@dataclass(frozen=True)
class Terms:
    """What all rules of a run are judged by.

    Attributes:
        ctx: Asked before each edit; told why a rule was not kept.
        timed: False keeps every rewrite.
        room: Bytes that the model may take.
    """

    ctx: Context
    timed: bool
    room: int


def keep_if_faster(model: Model, rule: Rule, terms: Terms) -> int:
    """Apply a rule to a model, and take it back unless the model gets faster.

    Args:
        model: Its graph is replaced where the rule is taken back.
        rule: The rule.
        terms: How to judge it.

    Returns:
        How many edits stayed.
    """
    resolve.infer(model)
    sites = _sites(model, rule)

    def judge(before: Exported, after: Exported, made: list[str]) -> str:
        if not terms.timed:
            return ""
        large = tentative.oversize(before, after, terms.room)
        if large:
            return large
        return _judged(before, after, rule, [sites.get(m, m) for m in made], terms.ctx)

    return tentative.keep(model, rule, terms.ctx, judge)


def _sites(model: Model, rule: Rule) -> dict[str, str]:
    """Return what stands at each place where a rule may fire, by edit id."""
    found = {}
    for path, graph in model.graphs():
        for node in graph.nodes:
            if node.op in rule.anchors:
                tensors = [*node.inputs, *node.outputs[:1]]
                what = [(str(shapes.dtype(t)), shapes.dims(t)) for t in tensors]
                found[edit_id(rule.name, path, node)] = f"{node.op} {what}"
    return found


def _judged(
    before: Exported, after: Exported, rule: Rule, sites: Sequence[str], ctx: Context
) -> str:
    """Return why a rule is to be taken back: what was measured, now or before."""
    key = verdicts.key(rule.name, sorted(sites), ctx.threads, ctx.custom_ops, _sizes(ctx))
    found: dict[str, Any] | None = verdicts.recall(key)
    if found is None:
        found = _timed(before, after, ctx)
        if "times" in found:
            verdicts.remember(key, found)
    return "" if found["faster"] else f"not faster here: {found['reason']}"


def _sizes(ctx: Context) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the first real sample; nothing where inputs are drawn."""
    if ctx.calibration is None or ctx.calibration.synthetic:
        return {}
    first = next(iter(ctx.calibration), None)
    return {} if first is None else {n: np.shape(v) for n, v in sorted(first.feed.items())}


def _timed(before: Exported, after: Exported, ctx: Context) -> dict[str, Any]:
    """Time two models in rounds until it is clear whether the second is faster."""
    settings = Settings(optimize=True, threads=ctx.threads, custom_ops=ctx.custom_ops)
    ratios: list[float] = []
    medians: list[list[float]] = []
    try:
        feed = _feed(before, Session(before, settings), ctx)
        while verdict(ratios) is None:
            old, new = _round(before, after, settings, feed, flipped=len(ratios) % 2 == 1)
            ratios.append(float(np.median(np.divide(new, old))))
            medians.append([float(np.median(times)) for times in (old, new)])
    except (CannotRun, SamplesError) as e:
        return {"faster": False, "reason": f"the model cannot be timed: {e}"}
    times = [float(t) for t in np.median(medians, axis=0)]
    reason = f"{1e3 * times[0]:.3g} ms before, {1e3 * times[1]:.3g} ms after"
    return {"faster": verdict(ratios), "reason": reason, "times": times}


def _round(
    before: Exported, after: Exported, settings: Settings, feed: dict[str, Any], flipped: bool
) -> tuple[list[float], list[float]]:
    """Return the times of both models in turn, in new sessions; flipped, the second is first."""
    clock = timing.clock(settings.threads)
    models = (after, before) if flipped else (before, after)
    sessions = [Session(m, settings) for m in models]
    one, other = timing.in_turn(sessions, feed, SECONDS, clock=clock)
    return (other, one) if flipped else (one, other)


def verdict(ratios: Sequence[float]) -> bool | None:
    """Return whether a model is faster, by its ratio of times in each round; None while open."""
    won = sum(ratio < GAIN for ratio in ratios)
    lost = len(ratios) - won
    if lost > 1:
        return False
    return True if won >= (MOST - 1 if lost else CLEAR) else None


def _feed(model: Exported, session: Session, ctx: Context) -> dict[str, Any]:
    """Return inputs to time on: a real sample, or drawn ones that the model runs on.

    Raises:
        SamplesError: There are none.
    """
    if ctx.calibration is not None and not ctx.calibration.synthetic:
        feeds = (sample.feed for sample in islice(ctx.calibration, DRAWS))
        found = _suitable(session, feeds)
    else:
        found = None
        for pool in (typical(model.inputs), {}):
            drawn = trial.drawn(model, session.settings, seed=ctx.seed, n=DRAWS, pool=pool)
            found = _suitable(session, sorted((s.feed for s in drawn), key=_typicality))
            if found is not None:
                break
    if found is None:
        raise SamplesError("no inputs were found that it runs on")
    return found


def _suitable(session: Session, feeds: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first inputs that a model runs on within its time, else the last it runs on."""
    found: dict[str, Any] | None = None
    for feed in feeds:
        with contextlib.suppress(CannotRun):
            session.run(feed)
            found = feed
            if session.seconds(feed) <= PATIENCE:
                break
    return found


def typical(inputs: Sequence[Port]) -> Mapping[str, Sequence[int]]:
    """Return sizes for the symbols of a model's inputs, those that it is likely used with first."""
    pool: dict[str, Sequence[int]] = {}
    for port in inputs:
        for axis, dim in enumerate(port.shape or ()):
            if isinstance(dim, str):
                image = axis > 1 and len(port.shape or ()) > 3
                pool.setdefault(dim, (1,) if axis == 0 else SIDES if image else LENGTHS)
    return pool


def _typicality(feed: Mapping[str, Any]) -> tuple[int, int]:
    """Return a key that puts single samples first, and then large ones."""
    arrays = [v for v in feed.values() if isinstance(v, np.ndarray) and v.ndim]
    return max((a.shape[0] for a in arrays), default=1), -sum(a.nbytes for a in arrays)

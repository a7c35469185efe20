"""Rewrites that pay only on this runtime and CPU: kept where the model at hand gets faster.

A rule is applied to the whole model; the model before and after run in turn at ORT_ENABLE_ALL. A
pair of runs is won if the new model takes less than 99 hundredths of the time. The rule stays once
more pairs are won than chance explains, by two standard deviations of a fair coin; what is still
open after a while is not kept. Other work on the machine hits both runs of a pair alike; with one
thread the clock does not count it at all.

Rewrites that would make the file larger than the run's source are not kept, however fast.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import runtime, shapes, trial
from onnxopt.errors import SamplesError
from onnxopt.rewrite import edit_id
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.fuse import tentative, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model
    from onnxopt.model.interface import Port
    from onnxopt.rewrite import Rule

GAIN = 0.99
"""Ratio of times below which a pair is won."""

PAIRS = 12
"""Pairs of runs before the first verdict."""

LOOK = 0.25
"""Seconds between two looks at the pairs."""

SECONDS = 5.0
"""How long to look for a verdict, once there are enough pairs for one."""

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
    shapes.infer(model)
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
    key = verdicts.key(rule.name, sites, ctx.threads)
    found = verdicts.known(key)
    if found is None:
        found = _timed(before, after, ctx)
        if "times" in found:
            verdicts.remember(key, found)
    return "" if found["faster"] else f"not faster here: {found['reason']}"


def _timed(before: Exported, after: Exported, ctx: Context) -> dict[str, Any]:
    """Time two models in rounds until it is clear whether the second is faster."""
    settings = Settings(optimize=True, threads=ctx.threads, custom_ops=ctx.custom_ops)
    clock = time.thread_time if ctx.threads == 1 else time.perf_counter
    old: list[float] = []
    new: list[float] = []
    try:
        sessions = [Session(m, settings) for m in (before, after)]
        feed = _feed(before, sessions[0], ctx)
        end = time.perf_counter() + SECONDS
        faster = None
        while faster is None and (len(old) < PAIRS or time.perf_counter() < end):
            for times, more in zip(
                (old, new), runtime.in_turn(sessions, feed, LOOK, clock=clock), strict=True
            ):
                times += more
            faster = verdict(old, new)
    except (CannotRun, SamplesError) as e:
        return {"faster": False, "reason": f"the model cannot be timed: {e}"}
    medians = [float(np.median(times)) for times in (old, new)]
    reason = f"{1e3 * medians[0]:.3g} ms before, {1e3 * medians[1]:.3g} ms after"
    return {"faster": faster is True, "reason": reason, "times": medians}


def verdict(old: Sequence[float], new: Sequence[float]) -> bool | None:
    """Return whether the second of two models is faster, by pairs of times; None while open."""
    if len(old) < PAIRS:
        return None
    won = float(np.mean([b < GAIN * a for a, b in zip(old, new, strict=True)]))
    chance = 1 / math.sqrt(len(old))
    return won > 0.5 if abs(won - 0.5) > chance else None


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

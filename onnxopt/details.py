"""What a report shows beyond its figures: where the time goes, and all nodes, before and after."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from onnxopt import latency, outline, profile
from onnxopt.runtime import CannotRun, Session
from onnxopt.timing import interleave

if TYPE_CHECKING:
    from onnxopt.job import Progress, Run

TIMED = 1.0
"""Seconds to spend on timing what each pass made."""

ROUNDS = 1000


def build(run: Run, timing: bool, progress: Progress) -> dict[str, Any]:
    """Return the details of a run as JSON.

    Args:
        run: What the pipeline found, its stages kept.
        timing: Whether anything may be timed.
        progress: Told what is being done.

    Returns:
        `nodes`: `before` and `after`, as `outline.nodes` gives them. `profile`: `before` and
        `after`, the kernels of each, and `step_ms`: the latency of the source, then of what each
        pass made, timed in turn; both None where nothing could be timed.
    """
    found: dict[str, Any] = {
        "nodes": {"before": outline.nodes(run.source), "after": outline.nodes(run.result)},
        "profile": None,
        "step_ms": None,
    }
    feed = run.proof.first_feed() if timing else None
    if feed is None:
        return found
    settings = run.proof.terms.settings(True)
    progress("timing", 0.0)
    try:
        profiles = profile.measure((run.source, run.result), feed, settings)
        found["profile"] = {
            when: [dataclasses.asdict(kernel) for kernel in kernels]
            for when, kernels in zip(("before", "after"), profiles, strict=True)
        }
        models = (run.source, *run.stages)
        if sum(m.nbytes for m in models) < latency.LARGE:
            sessions = [Session(m, settings) for m in models]
            times = interleave(sessions, feed, TIMED, ROUNDS)
            found["step_ms"] = [1e3 * t.median for t in times]
    except CannotRun:
        return found
    return found

"""Is the result slower than the source? Measured, the two in turn, as they are deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.timing import Timing, interleave

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.model import Exported

NOISE = 1.05
"""Ratios below this are noise on a machine that does other things too."""

TICK = 20e-6
"""Seconds; smaller differences are below what a call of the runtime varies by."""

LARGE = 256 * 2**20
"""Bytes; larger models are loaded one at a time, so that memory holds only one."""

TURNS = 2


@dataclass(frozen=True)
class Latency:
    """Times of source and result at ORT_ENABLE_ALL, interleaved.

    Attributes:
        before: Of the source.
        after: Of the result.
        threads: Threads within an operator.
    """

    before: Timing
    after: Timing
    threads: int

    @property
    def ratio(self) -> float:
        """Median of the result over median of the source; below 1 is faster."""
        return self.after.median / self.before.median

    @property
    def slower(self) -> bool:
        """Whether both minimum and median are higher by more than noise explains."""
        pairs = ((self.after.minimum, self.before.minimum), (self.after.median, self.before.median))
        return all(a > NOISE * b and a - b > TICK for a, b in pairs)


def measure(
    before: Exported, after: Exported, feed: Mapping[str, Any], settings: Settings, seconds: float
) -> Latency | None:
    """Time two models in turn; a result that looks slower is measured again, for longer.

    Returns:
        None where onnxruntime cannot run one of them.
    """
    try:
        latency = _once(before, after, feed, settings, seconds)
        for longer in (2, 4):
            if not latency.slower:
                break
            latency = _once(before, after, feed, settings, longer * seconds)
    except CannotRun:
        return None
    return latency


def _once(
    before: Exported, after: Exported, feed: Mapping[str, Any], settings: Settings, seconds: float
) -> Latency:
    if max(before.nbytes, after.nbytes) < LARGE:
        sessions = [Session(m, settings) for m in (before, after)]
        a, b = interleave(sessions, feed, seconds)
        return Latency(a, b, settings.threads)
    times: list[list[Timing]] = [[], []]
    for turn in range(TURNS):
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            session = Session((before, after)[i], settings)
            times[i] += interleave([session], feed, seconds / TURNS)
            del session
    a, b = (_joined(t) for t in times)
    return Latency(a, b, settings.threads)


def _joined(parts: list[Timing]) -> Timing:
    return Timing(
        min(p.minimum for p in parts),
        float(np.median([p.median for p in parts])),
        max(p.spread for p in parts),
        sum(p.runs for p in parts),
    )

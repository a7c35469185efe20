"""What runs of sessions cost, several in turn so that the machine's pace is the same for all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxopt.runtime import Session


@dataclass(frozen=True)
class Timing:
    """Wall times of one session among others that took turns with it, in seconds."""

    minimum: float
    median: float
    spread: float
    runs: int


def in_turn(
    sessions: Sequence[Session],
    feed: Mapping[str, Any],
    seconds: float,
    rounds: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Run sessions in turn; return the seconds of each run, a list a session.

    Args:
        sessions: What to time; the order is reversed in every other round.
        feed: One set of inputs.
        seconds: Stop after about this long, with at least 5 rounds.
        rounds: Stop after that many rounds.
        clock: What to read; `time.thread_time` does not count what other processes take, and sees
            all that a session of one thread does.
    """
    for session in sessions:
        session.run(feed)
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    done = 0
    while done < 5 or (done < rounds and time.perf_counter() < end):
        order = range(len(sessions)) if done % 2 == 0 else reversed(range(len(sessions)))
        for i in order:
            times[i].append(sessions[i].seconds(feed, clock))
        done += 1
    return times


def clock(threads: int) -> Callable[[], float]:
    """Return what to time sessions of so many threads by, for `in_turn`.

    With one, the thread's own time: it does not count what other processes take.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def interleave(
    sessions: Sequence[Session],
    feed: Mapping[str, Any],
    seconds: float = 1.0,
    rounds: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time sessions in turn, so that a change of the machine's pace hits all of them alike.

    Args:
        sessions: What to time; the order is reversed in every other round.
        feed: One set of inputs.
        seconds: Stop after about this long, with at least 5 rounds.
        rounds: Stop after that many rounds.
        clock: As in `in_turn`.
    """
    times = in_turn(sessions, feed, seconds, rounds, clock)
    return [
        Timing(
            float(np.min(t)),
            float(np.median(t)),
            float(np.percentile(t, 90) - np.percentile(t, 10)),
            len(t),
        )
        for t in times
    ]

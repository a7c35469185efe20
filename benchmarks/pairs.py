"""Two models timed as deployed, in turn, over several sessions of each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from onnxopt import timing
from onnxopt.runtime import Session, Settings

if TYPE_CHECKING:
    from onnxopt.model import Exported

ROUNDS = 4
"""Sessions of each model: two of one model differ a little for as long as they live."""

SECONDS = 0.6
"""How long a round takes."""


def in_rounds(
    before: Exported, after: Exported, feed: dict[str, Any], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    """Return the times of two models in turn, in seconds of the thread, one thread."""
    old: list[float] = []
    new: list[float] = []
    for number in range(rounds):
        models = (before, after) if number % 2 else (after, before)
        sessions = [Session(m, Settings(optimize=True)) for m in models]
        found = timing.in_turn(sessions, feed, SECONDS, rounds=1000, clock=time.thread_time)
        one, other = found if number % 2 else reversed(found)
        old += one
        new += other
    return old, new

"""A process for one tool: it stays warm, may crash or hang, and tells its peak of memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

PATIENCE = 600.0
"""Seconds that a call may take where nothing else is said."""


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        value: What the function returned.
        seconds: Wall time of the function alone, imports of earlier calls not in it.
        peak: Most bytes that the process has had in memory so far.
        error: Why there is no value: an exception, `crashed`, or `too slow`; else empty.
    """

    value: Any = None
    seconds: float = float("nan")
    peak: int = 0
    error: str = ""


class Worker:
    """Runs functions in a process of its own, and starts a new one where that one died."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None

    def ask(
        self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE
    ) -> Answer:
        """Call a function there and wait for what it returns."""
        pipe = self._pipe or self._start()
        pipe.send((function, arguments))
        if not pipe.poll(patience):
            self.stop()
            return Answer(seconds=patience, error="too slow")
        try:
            answer: Answer = pipe.recv()
        except (EOFError, ConnectionError):
            self.stop()
            return Answer(error="crashed")
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe


def _serve(pipe: Connection) -> None:
    """Do as asked until nobody asks; tools that print are not heard."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(silence, stream.fileno())
    warnings.simplefilter("ignore")
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(function, arguments))


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    start = time.perf_counter()
    try:
        value = function(*arguments)
    except BaseException as e:  # noqa: BLE001  # whatever a tool raises is its answer
        text = " ".join(str(e).split())
        return Answer(
            None, time.perf_counter() - start, peak(), f"{type(e).__name__}: {text[:200]}"
        )
    return Answer(value, time.perf_counter() - start, peak())


def peak() -> int:
    """Return the most bytes that this process has had in memory, mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, it does not begin with what the parent had
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

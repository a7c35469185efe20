"""Drawn inputs are tried in a process of their own first: some make onnxruntime itself crash.

An integer input may be a step of zero or a length beyond the data, and a kernel that does not check
it takes the whole process along, or never returns.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import warnings
from typing import TYPE_CHECKING, Any

from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.samples import Samples, synthetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnxopt.model import Exported

    Feeds = Callable[[], Iterable[Mapping[str, Any]]]

PATIENCE = 60.0
"""Seconds that one run on drawn inputs may take."""


def drawn(
    exported: Exported,
    settings: Settings,
    *,
    seed: int,
    n: int,
    pool: Mapping[str, Sequence[int]] | None = None,
) -> Samples:
    """Draw samples from a model's interface, without those that would take this process along.

    Args:
        exported: The model.
        settings: How it is going to be run.
        seed: Another number gives other samples.
        n: How many are drawn.
        pool: The sizes to choose from, by symbol.

    Raises:
        SamplesError: None can be drawn.
    """
    samples = synthetic(exported.inputs, seed=seed, n=n, pool=pool)
    bad = fatal(exported, settings, samples.feeds)
    return samples.without(bad) if bad else samples


def fatal(exported: Exported, settings: Settings, feeds: Feeds) -> frozenset[int]:
    """Return the indices of those inputs on which a run crashes the process, or never ends.

    Models without integer inputs are not tried, nor any where processes cannot be forked.

    Args:
        exported: The model.
        settings: How it is going to be run.
        feeds: Starts a pass over the inputs.
    """
    kinds = {p.dtype.kind for p in exported.inputs if p.dtype is not None and p.required}
    if not hasattr(os, "fork") or not kinds & set("iu"):
        return frozenset()
    found: set[int] = set()
    while True:
        done, finished = _child(exported, settings, feeds, frozenset(found))
        if finished:
            return frozenset(found)
        found.add(done)


def _child(
    exported: Exported, settings: Settings, feeds: Feeds, skip: frozenset[int]
) -> tuple[int, bool]:
    """Run in a forked process; return how far it came, and whether to the end."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no other thread
        child = os.fork()
    if child == 0:
        os.close(reader)
        _run(exported, settings, feeds, skip, writer)
    os.close(writer)
    done = 0
    try:
        while select.select([reader], [], [], PATIENCE)[0]:
            marks = os.read(reader, 4096)
            if not marks:
                break
            done += len(marks)
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reader)
    _, status = os.waitpid(child, 0)
    return done, os.waitstatus_to_exitcode(status) == 0


def _run(
    exported: Exported, settings: Settings, feeds: Feeds, skip: frozenset[int], writer: int
) -> None:
    """Be the child: run the model on each set of inputs, write a mark after each, and end."""
    faulthandler.disable()  # a crash is expected, and no news
    try:
        session = Session(exported, settings)
        for i, feed in enumerate(feeds()):
            if i not in skip:
                with contextlib.suppress(CannotRun):  # an error is fine: it comes back
                    session.run(feed)
            os.write(writer, b".")
    except CannotRun:
        return  # the caller will find out by itself
    finally:
        os._exit(0)

"""What reaches the user: text at 80 columns, JSON, one line of error, a progress bar."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType
    from rich.progress import Progress

PIPE_WIDTH = 80
WIDEST = 100
"""Columns; longer lines are hard to read."""

TIMING = "timing"
"""The phase in which nothing may move on the screen: drawing would cost what is being timed."""


def console(stderr: bool = False) -> Console:
    """Return a console: colour only on a terminal, and nothing read as markup."""
    from rich.console import Console

    found = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    found.width = min(found.width, WIDEST) if found.is_terminal else PIPE_WIDTH
    return found


def show(*parts: RenderableType | None) -> None:
    """Print parts with an empty line between them, but for None and the empty text.

    Text of type `str` is printed as it is, never folded: paths are to be copied.
    """
    screen = console()
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if part is None:
            continue
        with screen.capture() as captured:
            screen.print(part)
        texts.append("\n".join(line.rstrip() for line in captured.get().splitlines()))
    click.echo("\n\n".join(text for text in texts if text))


def show_json(found: dict[str, Any]) -> None:
    """Print an object as JSON."""
    click.echo(json.dumps(found, indent=2, allow_nan=False))


def error(message: str) -> None:
    """Print one line to stderr."""
    click.echo(f"{'' if not sys.stderr.isatty() else chr(13)}error: {plain(message)}", err=True)


def fail(kind: str, message: str, code: int, as_json: bool) -> int:
    """Print an error, to stdout as JSON too if that is what is read there; return its exit code."""
    error(message)
    if as_json:
        show_json({"error": {"kind": kind, "message": message, "exit_code": code}})
    return code


def mute() -> None:
    """Send the rest of stdout nowhere: its reader is gone."""
    with contextlib.suppress(OSError):  # a stream without a file needs nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(text: str) -> str:
    """Return text on one line, control characters spelled out: names in files may hold anything."""
    text = re.sub(r"\s*\n\s*", " ", text.strip())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Bar:
    """A progress bar on stderr where that is a terminal; nothing anywhere else.

    Args:
        wanted: False shows nothing on a terminal either.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._what = ""
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, what: str, done: float = 0.0) -> None:
        """Show what is being done; from the second call on, how much of it is (0 to 1)."""
        if not self._wanted:
            return
        if self._progress is None or TIMING in (what, self._what):
            self._stop()
            self._progress = self._start(what)
        elif what != self._what:
            self._update(description=plain(what), total=None, completed=0)
        else:
            self._update(total=1.0, completed=done)
        self._what = what

    def _update(self, **changes: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], **changes)

    def _start(self, what: str) -> Progress:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(30, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TimeElapsedColumn(),
        )
        moving = what != TIMING
        progress = Progress(
            *(columns if moving else columns[:1]),
            console=console(stderr=True),
            transient=True,
            auto_refresh=moving,
            refresh_per_second=4,
        )
        progress.add_task(plain(what), total=None)
        progress.start()
        progress.refresh()
        return progress

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

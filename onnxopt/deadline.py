"""A limit on how long a pass may run."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class TimeUpError(BaseException):
    """The time is up. Not an `Exception`, so that a pass that swallows those is stopped too."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `TimeUpError` in this thread once `seconds` have gone by.

    It is raised between two bytecodes of Python: a single call into native code is not cut short.
    """
    thread = threading.get_ident()
    finished = threading.Event()
    lock = threading.Lock()

    def watch() -> None:
        if not finished.wait(seconds):
            with lock:
                if not finished.is_set():
                    kind = ctypes.py_object(TimeUpError)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), kind)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            finished.set()
        watcher.join()

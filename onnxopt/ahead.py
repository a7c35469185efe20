"""Work done ahead on another thread.

onnxruntime lets go of Python's lock while a model runs, so what runs models and what digests their
results can share two cores.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

THREADS = 2
"""Threads that work side by side."""

S = TypeVar("S")
T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items; while one is worked on, another thread makes the next.

    An error of the items is raised where it is met. Nothing else may use them meanwhile.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]


def side_by_side(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield what work makes of each item, in their order; two threads do it, few items ahead."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(THREADS, "side") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

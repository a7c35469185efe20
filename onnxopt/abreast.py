"""Work of two threads: onnxruntime lets go of Python's lock while a model runs."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

THREADS = 2

S = TypeVar("S")
T = TypeVar("T")


def abreast(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield what work makes of each item, in their order; two threads do it, few items ahead."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(THREADS, "abreast") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

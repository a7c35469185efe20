"""Lists that go to disk when they grow."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


IN_MEMORY = 1 << 20
"""Bytes that are kept in memory: little, as several spools are held at a time, and so that what a
run takes is the same for few samples and for many."""


class Spool:
    """A list that goes to disk when it grows: memory is bounded whatever the number of samples.

    Args:
        in_memory: Bytes that are kept in memory.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._file = tempfile.SpooledTemporaryFile(in_memory)  # noqa: SIM115  # closed with the spool
        weakref.finalize(self, self._file.close)
        self._in_memory = in_memory
        self._ends = [0]

    def append(self, item: Any) -> None:
        """Add an item; a large array goes straight to disk, without a copy of it in memory."""
        if getattr(item, "nbytes", 0) > self._in_memory:
            self._file.rollover()
        self._file.seek(self._ends[-1])
        pickle.dump(item, self._file, protocol=5)
        self._ends.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self)):
            yield self[i]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self._file.seek(self._ends[index])
        return pickle.load(self._file)

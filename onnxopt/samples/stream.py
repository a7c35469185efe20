"""Samples from Python: `module:function`, iterables, and iterators that can be read but once."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Entry, Origin, Sample
from onnxopt.samples.check import check_entry, did_you_mean
from onnxopt.samples.npz import read_npz, temporary_folder, write_npz

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.model.interface import Port

FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def from_function(text: str) -> Origin:
    """Return the samples of `module:function`, which is called anew for every pass.

    The function takes nothing and returns an iterable of feeds, or of pairs (feed, label). The
    working directory is importable while it is called.

    Raises:
        SamplesError: There is no such module or function.
    """
    match = FUNCTION.fullmatch(text)
    if match is None:
        raise SamplesError(f"{text}: is no module:function: write it as my_data:feeds")
    return Origin(text, _Function(_import(match[1], match[2]), text).entries)


def from_iterable(items: Iterable[Any], inputs: Sequence[Port], name: str) -> Origin:
    """Return the samples of an iterable of feeds, pairs (feed, label) or `Sample`s.

    What can be read but once (a generator) is written to a temporary folder in one pass.
    """
    if iter(items) is items:
        return _Spool(items, inputs, name).origin()
    length = len(items) if isinstance(items, Sequence) else None
    return Origin(name, partial(_entries, items, name), length)


def _entries(items: Any, name: str) -> Iterator[Entry]:
    """Start a pass over feeds, pairs or samples."""
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        raise SamplesError(
            f"{name}: gives a value of type {type(items).__name__}: return an iterable of feeds "
            "{input: array} or of pairs (feed, label)"
        )
    return (Entry(partial(_sample, item, name)) for item in items)


def _sample(item: Any, name: str) -> Sample:
    """Make a sample of what an iterable yields."""
    if isinstance(item, Sample):
        return item
    if isinstance(item, Mapping):
        return Sample(dict(item))
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Mapping):
        return Sample(dict(item[0]), None if item[1] is None else np.asarray(item[1]))
    raise SamplesError(
        f"{name}: yields a value of type {type(item).__name__}: yield feeds {{input: array}} "
        "or pairs (feed, label)"
    )


def _import(module: str, function: str) -> Callable[[], Any]:
    """Import a function, also from the working directory."""
    text = f"{module}:{function}"
    with _working_directory():
        importlib.invalidate_caches()
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise SamplesError(
                f"{text}: cannot import {module} ({error}): run from the folder that holds it, "
                "or install it"
            ) from error
    made = getattr(found, function, None)
    if not callable(made):
        near = did_you_mean(function, (key for key, x in vars(found).items() if callable(x)))
        raise SamplesError(f"{text}: {module} has no function {function!r}{near or ': define it'}")
    return made  # type: ignore[no-any-return]


@contextmanager
def _working_directory() -> Iterator[None]:
    """Make the working directory importable for a while."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


class _Function:
    """Samples of a function, which must give fresh ones at each call."""

    def __init__(self, function: Callable[[], Any], text: str) -> None:
        self._function = function
        self._text = text
        self._last: Any = None

    def entries(self) -> Iterator[Entry]:
        """Call the function."""
        with _working_directory():
            made = self._function()
        once = isinstance(made, Iterator)
        if once and made is self._last:
            # A second pass would silently go on where the first one stopped.
            raise SamplesError(
                f"{self._text}: returns the same iterator again: make a new one at each call"
            )
        self._last = made if once else None
        return _entries(made, self._text)


class _Spool:
    """Samples of a one-shot iterator, in files that live as long as this object."""

    def __init__(self, items: Iterable[Any], inputs: Sequence[Port], name: str) -> None:
        self._name = name
        self._folder = temporary_folder(self)
        self._length = 0
        for entry in _entries(items, name):
            # Checked here too: what is wrong shows before an hour of writing.
            self._write(check_entry(entry, self._length, inputs, name))
            self._length += 1

    def origin(self) -> Origin:
        """Return the samples; they keep this object."""
        return Origin(self._name, self._entries, self._length)

    def _entries(self) -> Iterator[Entry]:
        return (Entry(partial(self._read, i)) for i in range(self._length))

    def _path(self, i: int) -> Path:
        return self._folder / f"{i}.npz"

    def _write(self, sample: Sample) -> None:
        arrays = {f"feed/{key}": self._plain(key, x) for key, x in sample.feed.items()}
        if sample.label is not None:
            arrays["label"] = self._plain("label", sample.label)
        write_npz(self._path(self._length), arrays)

    def _plain(self, key: str, value: Any) -> np.ndarray:
        """Return an array that can be written without pickle."""
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if array.dtype.isbuiltin == 2:  # bfloat16 and its kin, which files cannot name
                return array.view(f"V{array.dtype.itemsize}")
            if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
                array = array.astype(str)
            if array.dtype.kind != "O":
                return array
        raise SamplesError(
            f"{self._name}: {key!r} is no array, so it cannot be kept for a second pass: "
            "give a list of feeds or module:function"
        )

    def _read(self, i: int) -> Sample:
        arrays = read_npz(self._path(i))
        label = arrays.pop("label", None)
        return Sample({key.removeprefix("feed/"): x for key, x in arrays.items()}, label)

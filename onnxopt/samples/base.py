"""What a sample is, and lazy collections of them: first n, calibration and hold-out parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from onnxopt.errors import SamplesError

HOLDOUT = 0.2
"""Share of the samples that passes do not see, and proofs are made on."""

Feed = dict[str, Any]
"""What `InferenceSession.run` takes: a `np.ndarray` an input (lists and dicts where the model
declares sequences and maps)."""


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        feed: Values by input name, ready for `InferenceSession.run`.
        label: The label of this sample (0-d or array, any dtype), None without labels.
    """

    feed: Feed
    label: np.ndarray | None = None


Loader = Callable[[], Sample]
"""Reads one sample; a sample that nobody wants is skipped without reading it."""


class Entry(NamedTuple):
    """One sample of an origin, not yet read or checked.

    Attributes:
        read: Reads it.
        file: The file it is in, for messages; empty where there is none of its own.
    """

    read: Loader
    file: str = ""


@dataclass(frozen=True)
class Origin:
    """Where samples come from, before they are checked against a model.

    Attributes:
        name: How messages and reports call it.
        entries: Starts a pass over all samples, in an order that never changes.
        length: The number of samples, None where only a pass tells.
    """

    name: str
    entries: Callable[[], Iterable[Entry]]
    length: int | None = None


class Samples:
    """Samples that are read when they are iterated, as often as one likes, one at a time.

    Args:
        loaders: Starts a pass: a loader a sample, in an order that never changes.
        source: How messages and reports call them.
        labelled: Whether they have labels.
        length: Their number, None where only a pass tells.
        synthetic: Whether they are random rather than real.
    """

    def __init__(
        self,
        loaders: Callable[[], Iterable[Loader]],
        source: str,
        *,
        labelled: bool = False,
        length: int | None = None,
        synthetic: bool = False,
    ) -> None:
        self._loaders = loaders
        self._source = source
        self._labelled = labelled
        self._length = length
        self._synthetic = synthetic

    def __iter__(self) -> Iterator[Sample]:
        for load in self._loaders():
            yield load()

    def __repr__(self) -> str:
        return f"<Samples {self._source}>"

    @property
    def source(self) -> str:
        """How messages and reports call these samples: `calib.npz`, `synthetic`."""
        return self._source

    @property
    def synthetic(self) -> bool:
        """True for random samples, which say nothing about accuracy."""
        return self._synthetic

    @property
    def labelled(self) -> bool:
        """True if the samples have labels."""
        return self._labelled

    def origin(self) -> Origin:
        """Return these samples as a source to check against another model."""
        return Origin(self._source, lambda: (Entry(load) for load in self._loaders()), self._length)

    def feeds(self) -> Iterator[Feed]:
        """Iterate over the feeds alone."""
        for sample in self:
            yield sample.feed

    def count(self) -> int:
        """Return the number of samples; a pass over a source that does not know it, once."""
        if self._length is None:
            self._length = sum(1 for _ in self._loaders())
        return self._length

    def take(self, n: int) -> Samples:
        """Return the first `n` samples, or all if there are fewer.

        Raises:
            SamplesError: `n` is negative.
        """
        if n < 0:
            raise SamplesError(f"{self._source}: cannot take {n} samples: give 0 or more")
        length = None if self._length is None else min(n, self._length)
        return self._part(lambda: islice(self._loaders(), n), length)

    def without(self, indices: Container[int]) -> Samples:
        """Return these samples but for those at some indices."""
        return self._part(
            lambda: (load for i, load in enumerate(self._loaders()) if i not in indices), None
        )

    def split(self, holdout: float = HOLDOUT, seed: int = 0) -> tuple[Samples, Samples]:
        """Return (calibration, hold-out): disjoint, complete, the same at every call and pass.

        The samples are cut, in order, into strata of `1 / holdout`, and a seeded draw gives one
        sample of each to the hold-out. So sets that are sorted by class split evenly, and no list
        of indices is kept. The hold-out gets `floor(n * holdout)` or `ceil(n * holdout)` samples
        and at least one; calibration gets at least one of two or more, none of a single one.

        Args:
            holdout: The fraction to hold out, above 0 and below 1.
            seed: Another number gives another split; 0 or more.

        Raises:
            SamplesError: `holdout` or `seed` is out of range.
        """
        if not 0 < holdout < 1 or seed < 0:
            raise SamplesError(
                f"{self._source}: cannot hold out {holdout} with seed {seed}: "
                "the fraction lies between 0 and 1, the seed is 0 or more"
            )
        fraction = min(
            max(Fraction(holdout).limit_denominator(1000), Fraction(1, 1000)), Fraction(999, 1000)
        )
        first = self._at_most(math.ceil(1 / fraction))

        def part(held: bool) -> Samples:
            def loaders() -> Iterator[Loader]:
                marks = _marks(fraction, seed, first)
                return (
                    load for load, mark in zip(self._loaders(), marks, strict=False) if mark == held
                )

            return self._part(loaders, None)

        return part(False), part(True)

    def _part(self, loaders: Callable[[], Iterable[Loader]], length: int | None) -> Samples:
        """Return some of these samples."""
        return Samples(
            loaders,
            self._source,
            labelled=self._labelled,
            length=length,
            synthetic=self._synthetic,
        )

    def _at_most(self, limit: int) -> int:
        """Return the number of samples or `limit`, whichever is less, without a whole pass."""
        if self._length is not None:
            return min(self._length, limit)
        return sum(1 for _ in islice(self._loaders(), limit))


def _marks(fraction: Fraction, seed: int, first: int) -> Iterator[bool]:
    """Say of sample 0, 1, 2... whether it is held out, for ever.

    Stratum k covers the indices from k / fraction to (k + 1) / fraction. Later strata may choose
    an index behind the last sample, which keeps the fraction right; the first one chooses among
    the `first` samples that exist, so that there always is a hold-out.
    """
    stratum, start = 0, 0
    while True:
        stop = math.ceil((stratum + 1) / fraction)
        size = stop - start
        among = size if stratum else max(1, min(size, first))
        chosen = int(np.random.default_rng((seed, stratum)).integers(among))
        for i in range(size):
            yield i == chosen
        stratum, start = stratum + 1, stop

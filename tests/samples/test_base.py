from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.errors import SamplesError
from onnxopt.samples import Sample, Samples


def numbers(n: int, length: int | None = None) -> Samples:
    def loaders():
        return ((lambda i=i: Sample({"x": np.asarray(i)}, np.asarray(i))) for i in range(n))

    return Samples(loaders, "numbers", labelled=True, length=length)


def ids(samples: Samples) -> list[int]:
    return [int(sample.feed["x"]) for sample in samples]


@given(
    n=st.integers(0, 60),
    holdout=st.floats(0.001, 0.999),
    seed=st.integers(0, 10),
    known=st.booleans(),
)
def test_split_laws(n, holdout, seed, known):
    samples = numbers(n, n if known else None)
    calibration, held = samples.split(holdout, seed)
    a, b = ids(calibration), ids(held)
    assert sorted(a + b) == list(range(n))  # disjoint and complete
    assert a == sorted(a)
    assert b == sorted(b)
    assert len(b) >= min(n, 1)
    assert len(a) >= (n > 1)
    assert (a, b) == (ids(calibration), ids(held))  # any pass
    assert (a, b) == tuple(map(ids, numbers(n).split(holdout, seed)))  # any call
    assert (calibration.count(), held.count()) == (len(a), len(b))


@given(n=st.integers(1, 500), seed=st.integers(0, 5))
def test_default_split_holds_out_one_of_five(n, seed):
    _, held = numbers(n).split(seed=seed)
    assert max(1, n // 5) <= held.count() <= n // 5 + 1
    assert all(i // 5 == k for k, i in enumerate(ids(held)[: n // 5]))


def test_another_seed_gives_another_split():
    assert ids(numbers(100).split(seed=0)[1]) != ids(numbers(100).split(seed=1)[1])


def test_a_single_sample_is_held_out():
    calibration, held = numbers(1).split()
    assert (ids(calibration), ids(held)) == ([], [0])
    assert (calibration.labelled, held.labelled) == (True, True)


def test_a_split_reads_only_what_it_yields():
    read = []

    def load(i):
        read.append(i)
        return Sample({"x": np.asarray(i)})

    samples = Samples(lambda: [(lambda i=i: load(i)) for i in range(10)], "lazy")
    _, held = samples.split()
    assert (held.count(), read) == (2, [])
    assert ids(held) == read


@pytest.mark.parametrize(("holdout", "seed"), [(0, 0), (1, 0), (-0.1, 0), (0.2, -1)])
def test_split_arguments(holdout, seed):
    with pytest.raises(SamplesError, match="fraction lies between 0 and 1"):
        numbers(3).split(holdout, seed)


def test_take():
    samples = numbers(10)
    assert ids(samples.take(3)) == ids(samples.take(3)) == [0, 1, 2]
    assert (samples.take(3).count(), samples.take(99).count(), numbers(5, 5).take(9).count()) == (
        3,
        10,
        5,
    )
    assert ids(samples.take(0)) == []
    with pytest.raises(SamplesError, match="cannot take -1 samples"):
        samples.take(-1)


def test_feeds_and_names():
    samples = numbers(2)
    assert [int(feed["x"]) for feed in samples.feeds()] == [0, 1]
    assert (samples.source, samples.synthetic, samples.labelled) == ("numbers", False, True)
    assert repr(samples) == "<Samples numbers>"

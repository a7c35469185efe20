from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import open_samples, synthetic


def port(name, shape, dtype="float32", **more) -> Port:
    return Port(name, "tensor", np.dtype(dtype), shape, **more)


IDS = [port("ids", ("N", "T"), "int64"), port("mask", ("N", "T"), "int64")]


def test_bindings_are_consistent_and_vary():
    shapes = []
    for feed in synthetic(IDS).feeds():
        assert feed["ids"].shape == feed["mask"].shape
        shapes.append(feed["ids"].shape)
    assert shapes == [(1, 8), (2, 16), (3, 32), (1, 64)]


def test_nameless_dimensions_bind_by_axis():
    inputs = [port("a", (None, None)), port("b", (-1, 5, None, None))]
    for feed in synthetic(inputs).feeds():
        assert feed["a"].shape[0] == feed["b"].shape[0]


def test_images_are_square_in_even_samples_only():
    shapes = [feed["x"].shape for feed in synthetic([port("x", ("N", 3, "H", "W"))]).feeds()]
    assert shapes == [(1, 3, 32, 32), (2, 3, 64, 96), (3, 3, 96, 96), (1, 3, 128, 32)]


def test_pool():
    pool = {"T": [5, 7], "unknown": [1]}
    assert [f["ids"].shape for f in synthetic(IDS, pool=pool).feeds()] == [
        (1, 5),
        (2, 7),
        (3, 5),
        (1, 7),
    ]
    with pytest.raises(SamplesError, match="no sizes for 'T'"):
        synthetic(IDS, pool={"T": []})


@given(seed=st.integers(0, 2**32), n=st.integers(0, 6))
def test_deterministic(seed, n):
    one, two = synthetic(IDS, seed=seed, n=n), synthetic(IDS, seed=seed, n=n)
    assert one.count() == n
    for a, b, c in zip(one.feeds(), one.feeds(), two.feeds(), strict=True):
        assert all(np.array_equal(a[k], b[k]) and np.array_equal(a[k], c[k]) for k in a)


def test_another_seed_gives_other_values():
    inputs = [port("x", (4,))]
    first, second = (next(synthetic(inputs, seed=s).feeds())["x"] for s in (0, 1))
    assert not np.array_equal(first, second)


def test_values():
    inputs = [port("x", (1000,)), port("i", (1000,), "int64"), port("t", (20,), "object")]
    samples = synthetic(inputs)
    assert (samples.synthetic, samples.source, samples.labelled) == (True, "synthetic", False)
    normal, unit, wide, _ = samples.feeds()
    assert normal["x"].min() < -1
    assert unit["x"].min() >= 0
    assert unit["x"].max() < 1
    assert (wide["x"] == 0).sum() > 20
    assert np.abs(wide["x"]).max() > 10
    assert set(normal["i"].tolist()) == {0, 1, 2}
    assert set(normal["t"].tolist()) == {"a", "b"}


DTYPES = ["bool", "int8", "uint64", "float16", "float64", "complex64", "object", ml_dtypes.bfloat16]
DTYPES += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4]
DTYPES += [
    getattr(ml_dtypes, name)
    for name in ("float8_e8m0fnu", "float4_e2m1fn", "int2")
    if hasattr(ml_dtypes, name)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (50,), (0, 3)])
def test_every_dtype_passes_the_checks(dtype, shape):
    inputs = [port("x", shape, dtype)]
    samples = list(open_samples(synthetic(inputs), inputs))
    assert len(samples) == 4
    assert all(s.feed["x"].dtype == np.dtype(dtype) for s in samples)
    assert all(s.feed["x"].shape == shape for s in samples)


def test_inputs_with_a_default_are_left_alone():
    inputs = [port("x", (2,)), port("w", None, required=False)]
    assert list(next(synthetic(inputs).feeds())) == ["x"]


@pytest.mark.parametrize(
    "bad", [port("x", None), Port("x", "sequence", None, None), Port("x", "tensor", None, ("N",))]
)
def test_what_cannot_be_drawn(bad):
    with pytest.raises(
        SamplesError, match=r"inputs cannot be drawn for x: .*give calibration data"
    ):
        synthetic([bad])


def test_absurd_sizes():
    with pytest.raises(SamplesError, match=r"input 'x' would take 4\.0 GiB a sample"):
        synthetic([port("x", (2**30,)), port("y", (5,))])

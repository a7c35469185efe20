from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import open_samples
from onnxopt.samples.check import check_feed


def port(dtype, shape=("N",), name="x", **more) -> Port:
    return Port(name, "tensor", np.dtype(dtype), shape, **more)


def fit(value, dtype, shape=("N",)):
    return check_feed({"x": value}, [port(dtype, shape)], "calib")["x"]


def test_unknown_key_is_named_with_the_nearest_one(image):
    with pytest.raises(SamplesError) as error:
        open_samples([{"imge": np.zeros((1, 3, 4, 5), np.float32)}], [image])
    assert str(error.value) == (
        "samples, sample 0: the model has no input 'imge', did you mean 'image'? "
        "(its inputs: image: float32[N, 3, 4, 5])"
    )


def test_missing_required_input_is_named(two):
    with pytest.raises(SamplesError, match=r"input 'ids' is missing: add ids: int64\[N, T\]"):
        open_samples([{"x": np.zeros((1, 3), np.float32)}], two)


def test_an_overridable_input_may_be_there_or_not():
    inputs = [port("float32"), port("float32", name="w", required=False)]
    x = np.zeros(2, np.float32)
    feeds = list(open_samples([{"x": x}, {"x": x, "w": x}], inputs).feeds())
    assert [sorted(feed) for feed in feeds] == [["x"], ["w", "x"]]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("float64", "float32"),
        (">f4", "float32"),
        (">f8", "float32"),
        ("int32", "int64"),
        ("int64", "int32"),
        ("int64", "uint8"),
        ("uint8", "int64"),
        ("int64", "bool"),
        ("bool", "int64"),
        ("int64", ml_dtypes.int4),
        (ml_dtypes.int4, "int64"),
        ("U3", "object"),
    ],
)
def test_casts_that_lose_nothing(given, wanted):
    found = fit(np.asarray([0, 1, 1]).astype(given), wanted)
    assert found.dtype == np.dtype(wanted)
    assert found.tolist() == np.asarray([0, 1, 1]).astype(given).astype(wanted).tolist()


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        (np.zeros(2, np.int64), "float32", "'x' is int64, but the model expects float32"),
        (np.zeros(2, np.float32), "int64", "'x' is float32, but the model expects int64"),
        (np.zeros(2, np.float32), "float16", "'x' is float32, but the model expects float16"),
        (np.zeros(2, np.float32), "float64", "'x' is float32, but the model expects float64"),
        (np.asarray([0, 300]), "uint8", "int64 with values from 0 to 300, but .* expects uint8"),
        (np.asarray([-1, 0]), "bool", "int64 with values from -1 to 0, but the model expects bool"),
        (np.asarray([2**40]), "int32", "with values from 1099511627776 to .* expects int32"),
        (np.asarray([1e300]), "float32", "float64 with values beyond its range"),
        (np.asarray(["a"]), "float32", "'x' is <U1, but the model expects float32"),
        (np.asarray([b"a"], object), "object", "object with values that are not str"),
        (np.zeros(2), "object", "'x' is float64, but the model expects object"),
        (np.zeros(2, "V2"), "float16", "expects float16"),
        ([[1.0], [1.0, 2.0]], "float32", "'x' is no array"),
    ],
)
def test_casts_that_would_lose_something(value, wanted, message):
    with pytest.raises(SamplesError, match=message):
        fit(value, wanted)


def test_an_infinity_of_the_source_is_no_overflow():
    assert fit(np.asarray([-np.inf, 1.0]), "float32").tolist() == [-np.inf, 1.0]


def test_bytes_of_bfloat16_are_bfloat16():
    values = np.asarray([1.0, -2.5]).astype(ml_dtypes.bfloat16)
    assert fit(values.view("V2"), ml_dtypes.bfloat16).astype(float).tolist() == [1.0, -2.5]


def test_text_inputs():
    assert fit(np.asarray(["a", "bc"], object), "object").tolist() == ["a", "bc"]


@pytest.mark.parametrize("shape", [(2,), (2, 3, 1), (2, 4)])
def test_rank_and_fixed_dimensions(shape):
    with pytest.raises(SamplesError) as error:
        fit(np.zeros(shape, np.float32), "float32", ("N", 3))
    assert f"'x' has shape {shape}, but the model expects x: float32[N, 3]" in str(error.value)


def test_unknown_and_negative_dimensions_take_any_size():
    assert fit(np.zeros((2, 7), np.float32), "float32", (None, -1)).shape == (2, 7)
    assert fit(np.zeros((2, 7), np.float32), "float32", None).shape == (2, 7)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", ml_dtypes.bfloat16])
def test_nan_is_refused_in_any_sample(dtype):
    good, bad = np.ones(2).astype(dtype), np.asarray([1, np.nan]).astype(dtype)
    samples = open_samples([{"x": good}, {"x": good}, {"x": bad}], [port(dtype)])
    with pytest.raises(SamplesError, match="samples, sample 2: input 'x' holds NaN"):
        list(samples)


def test_the_first_sample_is_checked_at_once():
    with pytest.raises(SamplesError, match="sample 0: input 'x' holds NaN"):
        open_samples([{"x": np.asarray([np.nan], np.float32)}], [port("float32")])


def test_values_of_other_kinds_pass():
    feed = {"s": [np.zeros(1), np.zeros(2)]}
    assert check_feed(feed, [Port("s", "sequence", None, None)], "x") == feed

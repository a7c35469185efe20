"""What counts as equal: rounding does, anything else does not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.parity import Tolerance, compare

RNG = np.random.default_rng(0)


def breach(want, got, written=None, optimized=None):
    tolerance = Tolerance()
    if written is not None:
        tolerance.learn({"y": written}, {"y": optimized})
    return tolerance.breach({"y": want}, {"y": got})[1]


def test_equal_outputs_have_no_drift() -> None:
    y = RNG.normal(size=(4, 10)).astype(np.float32)
    assert compare({"y": y}, {"y": y.copy()})["y"].drift == 0


def test_rounding_passes_and_a_thousandth_does_not() -> None:
    y = RNG.normal(size=(4, 1000)).astype(np.float32)
    assert breach(y, y * np.float32(1 + 1e-6)) is None
    assert breach(y, y * np.float32(1.001)) is not None


def test_the_noise_floor_widens_the_tolerance_of_its_own_output() -> None:
    y = RNG.normal(size=(1, 64)).astype(np.float32)
    assert breach(y, y * np.float32(1 + 1e-4)) is not None
    assert breach(y, y * np.float32(1 + 1e-4), y, y * np.float32(1 + 2e-5)) is None


def test_a_high_noise_floor_allows_no_more_than_twice_itself() -> None:
    y = RNG.normal(size=(1, 64)).astype(np.float32)
    assert breach(y, y * np.float32(1.15), y, y * np.float32(1.1)) is None
    assert breach(y, y * np.float32(1.5), y, y * np.float32(1.1)) is not None


def test_small_scores_beside_large_boxes_are_judged_on_their_own() -> None:
    y = np.concatenate([np.full((4, 100), 640.0), np.full((80, 100), 0.5)]).astype(np.float32)[None]
    wrong = y.copy()
    wrong[0, 10] *= 1.01  # 8e-6 of the largest value
    assert breach(y, wrong) is not None


def test_one_logit_near_zero_carries_the_rounding_of_its_sum() -> None:
    y = np.array([[10.0, 1e-6, -3.0]], np.float32)
    assert breach(y, y + np.float32(2e-6)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_must_stay_where_they_are(value: float) -> None:
    y = np.ones((2, 8), np.float32)
    y[0, 3] = value
    moved = np.ones((2, 8), np.float32)
    moved[1, 3] = value
    assert breach(y, y.copy()) is None
    assert breach(y, moved) is not None
    assert breach(y, np.ones((2, 8), np.float32)) is not None
    assert breach(np.ones((2, 8), np.float32), y) is not None


def test_infinity_keeps_its_sign() -> None:
    assert breach(np.array([np.inf], np.float32), np.array([-np.inf], np.float32)) is not None


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_are_exact(dtype: type) -> None:
    y = np.zeros(100, dtype)
    other = y.copy()
    other[7] = 1
    assert breach(y, y.copy()) is None
    assert breach(y, other) is not None


def test_integers_may_differ_where_the_runtime_itself_differs() -> None:
    y = np.arange(100)
    other = y.copy()
    other[7] = 1
    assert breach(y, other, y, other) is None


def test_strings_are_exact() -> None:
    y = np.array(["a", "b"], object)
    assert breach(y, np.array(["a", "c"], object)) is not None


@pytest.mark.parametrize(
    ("want", "got"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(3, np.float32), np.zeros(3, np.float64)),
        ([np.zeros(2)], [np.zeros(2), np.zeros(2)]),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}),
    ],
)
def test_shapes_types_and_lengths_count(want: object, got: object) -> None:
    assert breach(want, got) is not None


def test_sequences_and_maps_are_compared_inside() -> None:
    assert breach([np.ones(2)], [np.ones(2)]) is None
    assert breach([np.ones(2)], [np.zeros(2)]) is not None
    assert breach([{1: 0.5}], [{1: 0.5}]) is None
    assert breach([{1: 0.5}], [{1: 0.25}]) is not None


def test_outputs_that_are_random_are_skipped() -> None:
    tolerance = Tolerance()
    tolerance.learn_random(
        {"y": np.zeros(3), "z": np.zeros(3)}, {"y": np.ones(3), "z": np.zeros(3)}
    )
    assert tolerance.skipped == {"y"}
    outputs = {"y": np.zeros(3), "z": np.zeros(3)}
    assert tolerance.breach(outputs, {"y": np.ones(3), "z": np.zeros(3)})[1] is None
    assert tolerance.breach(outputs, {"y": np.zeros(3), "z": np.ones(3)})[1] is not None


def test_empty_outputs_are_equal() -> None:
    assert breach(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) is None

"""Rounding by what a layer computes: each step lowers the error that it is about."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt_passes.quant import rounding
from onnxopt_passes.quant.rounding import Steps

GROUPS, OUTPUTS, INPUTS = 2, 6, 150


@pytest.fixture
def layer():
    """Return a weight and the Gram matrix of inputs that hang together, as activations do."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(GROUPS, INPUTS // 3, INPUTS))
    x = rng.normal(size=(GROUPS, 2000, INPUTS // 3)) @ mix
    gram = rounding.damped(x.transpose(0, 2, 1) @ x / 2000)
    weight = rng.standard_t(3, size=(GROUPS, OUTPUTS, INPUTS))
    return weight, gram


def _steps(weight, top=7.0):
    scale = np.abs(weight).max(-1, keepdims=True) / top
    parts = (scale, np.zeros(1), np.full(1, -top), np.full(1, top))
    return Steps(*(np.broadcast_to(p, weight.shape).copy() for p in parts))


def _error(weight, steps, integers, gram):
    return rounding.error(weight, steps.floats(integers), [(slice(None), gram)])


def test_errors_are_passed_on_to_columns_that_follow(layer):
    weight, gram = layer
    steps = _steps(weight)
    nearest = _error(weight, steps, steps.nearest(weight), gram)
    integers = rounding.propagated(weight, steps, gram)
    assert _error(weight, steps, integers, gram) < 0.6 * nearest
    assert np.abs(integers).max() <= 7


def test_no_single_integer_can_be_moved_for_the_better(layer):
    weight, gram = layer
    steps = _steps(weight)
    start = steps.nearest(weight)
    found = rounding.descended(weight, steps, gram, start)
    least = _error(weight, steps, found, gram)
    assert least < 0.6 * _error(weight, steps, start, gram)
    rng = np.random.default_rng(1)
    for _ in range(50):
        moved = found.copy()
        where = tuple(rng.integers(n) for n in found.shape)
        moved[where] = np.clip(moved[where] + rng.choice((-1, 1)), -7, 7)
        assert _error(weight, steps, moved, gram) >= least * (1 - 1e-9)


def test_scales_shrink_where_large_weights_are_rare(layer):
    weight, gram = layer
    steps = _steps(weight)
    owner = np.arange(GROUPS * OUTPUTS).reshape(GROUPS, OUTPUTS, 1) + np.zeros(INPUTS, int)
    factors = rounding.shrunk(weight, steps, owner, [(slice(None), gram)]).reshape(
        GROUPS, OUTPUTS, 1
    )
    better = Steps(steps.scale * factors, steps.zero, steps.low, steps.high)
    before = _error(weight, steps, steps.nearest(weight), gram)
    assert factors.min() < 1
    assert _error(weight, better, better.nearest(weight), gram) < before


def test_scales_of_blocks_see_only_their_own_columns(layer):
    weight, gram = layer
    owner = np.arange(GROUPS * OUTPUTS * 3).reshape(GROUPS, OUTPUTS, 3).repeat(50, -1)
    steps = _steps(weight)
    whole = rounding.shrunk(weight, steps, owner, [(slice(None), gram)])
    alone = rounding.shrunk(
        weight[..., 50:100],
        Steps(*(p[..., 50:100] for p in (steps.scale, steps.zero, steps.low, steps.high))),
        owner[..., 50:100] // 3,
        [(slice(None), gram[:, 50:100, 50:100])],
    )
    np.testing.assert_array_equal(whole.reshape(-1, 3)[:, 1], alone)


def test_weights_without_error_stay(layer):
    weight, gram = layer
    steps = _steps(weight)
    exact = steps.floats(steps.nearest(weight))
    for found in (
        rounding.propagated(exact, steps, gram),
        rounding.descended(exact, steps, gram, steps.nearest(exact)),
    ):
        np.testing.assert_array_equal(found, steps.nearest(exact))


def test_large_products_are_as_exact_as_they_need_be(layer):
    rng = np.random.default_rng(2)
    difference, x = rng.normal(size=(1, 128, 512)), rng.normal(size=(600, 512))
    gram = (x.T @ x)[None] * 1e12
    want = difference @ gram
    assert np.abs(rounding._Product(gram).by(difference) - want).max() < 1e-5 * np.abs(want).max()

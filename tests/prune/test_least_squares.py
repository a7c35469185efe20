"""Regressions find the layer that made the targets, and refuse what does not help."""

import numpy as np
import pytest

from onnxopt.statistics import Moments
from onnxopt_passes.prune.least_squares import RIDGES, absorb, best_ridge, refit


def statistics(x, y):
    sums = Moments(1, x.shape[1], y.shape[1])
    sums.add(x[None].astype(np.float32), y[None].astype(np.float32))
    return sums.statistics()


def drawn(n: int = 400, noise: float = 0.01):
    rng = np.random.default_rng(0)
    x = rng.normal(1, 1, (n, 5)) @ rng.normal(0, 1, (5, 5))
    w, b = rng.normal(0, 1, (3, 5)), rng.normal(0, 1, 3)
    return x, x @ w.T + b + noise * rng.normal(0, 1, (n, 3)), w, b


def test_refit_finds_the_layer():
    x, y, w, b = drawn()
    parts = statistics(x[:300], y[:300]), statistics(x[300:], y[300:])
    found = refit(*parts, np.zeros((1, 3, 5)), np.zeros((1, 3)))
    np.testing.assert_allclose(found.matrix[0], w, atol=0.01)
    np.testing.assert_allclose(found.offsets[0], b, atol=0.02)
    assert found.ridge is not None
    assert found.after < 1e-3 < found.before


def test_refit_without_a_bias_keeps_it():
    x, y, w, b = drawn()
    parts = statistics(x[:300], y[:300]), statistics(x[300:], y[300:])
    found = refit(*parts, np.zeros((1, 3, 5)), b[None], biased=False)
    np.testing.assert_allclose(found.matrix[0], w, atol=0.02)
    np.testing.assert_array_equal(found.offsets[0], b)


def test_a_fit_that_does_not_hold_is_refused():
    """Few samples of noise: any fit is worse on the samples held out."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (40, 5)), rng.normal(0, 1, (40, 3))
    parts = statistics(x[:8], y[:8]), statistics(x[8:], np.zeros((32, 3)))
    prior = np.zeros((1, 3, 5)), np.zeros((1, 3))
    found = refit(*parts, *prior)
    assert found.ridge is None
    assert found.after == found.before
    assert found.matrix is prior[0]


def test_absorb_is_the_regression_on_what_stays():
    x, y, w, b = drawn(noise=0.0)
    kept = np.array([3, 0, 4])
    matrix, offsets = absorb(w, b, statistics(x, y), kept, ridge=1e-9)
    augmented = np.concatenate([x[:, kept], np.ones((len(x), 1))], 1)
    want = np.linalg.lstsq(augmented, y, rcond=None)[0].T
    np.testing.assert_allclose(matrix, want[:, :3], atol=1e-3)
    np.testing.assert_allclose(offsets, want[:, 3], atol=1e-2)


def test_absorb_without_a_bias_is_a_regression_through_zero():
    x, y, w, b = drawn(noise=0.0)
    kept = np.array([1, 2])
    matrix, _ = absorb(w, np.zeros(3), statistics(x, y), kept, biased=False, ridge=1e-9)
    want = np.linalg.lstsq(x[:, kept], y - b, rcond=None)[0].T
    np.testing.assert_allclose(matrix, want, atol=1e-3)


@pytest.mark.parametrize("least", range(len(RIDGES)))
def test_the_best_ridge_is_found_downhill(least):
    tried = []

    def error(ridge):
        tried.append(ridge)
        return abs(RIDGES.index(ridge) - least)

    assert best_ridge(error) == (RIDGES[least], 0)
    assert len(tried) == len(set(tried)) <= 4


def test_a_ridge_that_gives_no_number_is_not_taken():
    assert best_ridge(lambda ridge: np.nan if ridge < 0.1 else ridge) == (0.1, 0.1)

"""Moments summed up in blocks are those of all rows."""

import numpy as np
import pytest

from onnxopt.statistics import grams
from onnxopt.statistics.grams import Moments, merged


def rows(seed: int, n: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(offset, 1, (2, n, 3)).astype(np.float32)
    y = (x @ rng.normal(0, 1, (2, 3, 2)) + rng.normal(0, 0.1, (2, n, 2))).astype(np.float32)
    return x, y


def moments(x: np.ndarray, y: np.ndarray, step: int = 5) -> grams.Statistics:
    sums = Moments(2, 3, 2)
    for i in range(0, x.shape[1], step):
        sums.add(x[:, i : i + step], y[:, i : i + step])
    return sums.statistics()


@pytest.mark.parametrize("block", [16, 1 << 21])
def test_moments_are_those_of_all_rows(monkeypatch, block):
    monkeypatch.setattr(grams, "BLOCK", block)
    x, y = rows(0, 203, offset=50.0)
    found = moments(x, y)
    assert found.count == 203
    for g in range(2):
        np.testing.assert_allclose(found.x[g], x[g].mean(0, dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(found.y[g], y[g].mean(0, dtype=np.float64), rtol=1e-6)
        whole = np.cov(np.concatenate([x[g], y[g]], 1).astype(np.float64).T, bias=True)
        np.testing.assert_allclose(found.xx[g], whole[:3, :3], atol=1e-4)
        np.testing.assert_allclose(found.yx[g], whole[3:, :3], atol=1e-4)
        np.testing.assert_allclose(found.yy[g], np.diag(whole)[3:], atol=1e-4)


def test_the_error_is_the_mean_square():
    x, y = rows(1, 100)
    rng = np.random.default_rng(2)
    matrix, offsets = rng.normal(0, 1, (2, 2, 3)), rng.normal(0, 1, (2, 2))
    want = ((y - x @ matrix.transpose(0, 2, 1) - offsets[:, None]) ** 2).mean(1)
    np.testing.assert_allclose(moments(x, y).error(matrix, offsets), want, rtol=1e-4)
    want = ((y - x @ matrix.transpose(0, 2, 1)) ** 2).mean(1)
    zero = np.zeros((2, 2))
    np.testing.assert_allclose(moments(x, y).raw().error(matrix, zero), want, rtol=1e-4)


def test_parts_merge_to_the_whole():
    x, y = rows(3, 90, offset=2.0)
    whole = moments(x, y)
    both = merged([moments(x[:, :30], y[:, :30]), moments(x[:, 30:], y[:, 30:])])
    assert both.count == 90
    for name in ("x", "y", "xx", "yx", "yy"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), atol=1e-4)


def test_rows_that_are_not_finite_are_refused():
    sums = Moments(1, 2)
    with pytest.raises(ValueError, match="no rows"):
        sums.statistics()
    sums.add(np.full((1, 3, 2), np.inf, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        sums.statistics()

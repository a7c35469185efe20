"""The greedy order is that of the exact cost, and the curve is the exact error."""

import numpy as np
import pytest

from onnxopt_passes.prune import obs
from onnxopt_passes.prune.least_squares import damp
from onnxopt_passes.prune.obs import Reader, rank


def drawn(seed: int, outputs: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    factor = rng.normal(0, 1, (columns, columns))
    return rng.normal(0, 1, (outputs, columns)), factor @ factor.T / columns


def remaining_error(w: np.ndarray, h: np.ndarray, gone: np.ndarray) -> float:
    """tr(W_R (H_RR - H_RP H_PP^-1 H_PR) W_R^T), the Schur complement."""
    rest = np.delete(np.arange(len(h)), gone)
    schur = h[np.ix_(gone, gone)]
    if len(rest):
        cross = h[np.ix_(gone, rest)]
        schur = schur - cross @ np.linalg.solve(h[np.ix_(rest, rest)], cross.T)
    return float(np.trace(w[:, gone] @ schur @ w[:, gone].T))


@pytest.mark.parametrize("k", [1, 3])
def test_each_step_removes_the_cheapest_channel(k):
    channels = 6
    w, s = drawn(k, 5, channels * k)
    columns = np.arange(channels * k).reshape(channels, k)
    reader = Reader(w, s, np.arange(channels), columns, power=3.0)
    found = rank([reader], channels)
    h = damp(s[None], obs.RIDGE)[0]
    for n in range(1, channels + 1):
        gone = columns[found.order[:n]].reshape(-1)
        error = remaining_error(w, h, gone) / 3.0
        assert found.errors[n] == pytest.approx(error, rel=1e-8)
        if n < channels:
            others = [
                remaining_error(w, h, np.concatenate([columns[found.order[: n - 1]].ravel(), c]))
                for c in columns[found.order[n - 1 :]]
            ]
            assert min(others) == pytest.approx(error * 3.0, rel=1e-8)
    assert sorted(found.order) == list(range(channels))
    assert list(found.kept(2)) == sorted(found.order[-2:])


def test_costs_of_several_readers_add_up():
    (w1, s1), (w2, s2) = drawn(1, 4, 5), drawn(2, 3, 3)
    one = Reader(w1, s1, np.arange(5), np.arange(5)[:, None], 2.0)
    two = Reader(w2, s2, np.array([4, 1, 0]), np.arange(3)[:, None], 0.5)
    found = rank([one, two], 5)
    first = int(found.order[0])
    want = remaining_error(w1, damp(s1[None], obs.RIDGE)[0], np.array([first])) / 2
    if first in (4, 1, 0):
        at = [4, 1, 0].index(first)
        error = remaining_error(w2, damp(s2[None], obs.RIDGE)[0], np.array([at]))
        want += error / 0.5
    assert found.errors[1] == pytest.approx(want)


def test_a_channel_that_others_repeat_goes_first():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 6))
    x[:, 4] = x[:, 1] + x[:, 2]
    w = rng.normal(0, 1, (8, 6))
    reader = Reader(w, np.cov(x.T), np.arange(6), np.arange(6)[:, None], 1.0)
    found = rank([reader], 6, ridge=1e-6)
    assert found.order[0] in (1, 2, 4)
    assert found.errors[1] < 1e-4


def test_large_groups_go_in_few_rounds(monkeypatch):
    monkeypatch.setattr(obs, "STEPS", 4)
    w, s = drawn(3, 4, 40)
    found = rank([Reader(w, s, np.arange(40), np.arange(40)[:, None], 1.0)], 40)
    assert sorted(found.order) == list(range(40))
    assert (np.diff(found.errors) >= 0).all()


def test_a_group_that_nothing_reads_costs_nothing():
    found = rank([], 3)
    assert list(found.order) == [0, 1, 2]
    assert not found.errors.any()

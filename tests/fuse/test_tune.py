"""The verdict over two models by pairs of times: what noise does, and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt_passes.fuse import tune


def times(ratio: float, noise: float, pairs: int, seed: int) -> tuple[list[float], list[float]]:
    """Draw pairs: both runs share a pace that changes all the time, and each has its own noise."""
    rng = np.random.default_rng(seed)
    pace = np.exp(rng.normal(0, 0.3, pairs))
    own = np.exp(rng.normal(0, noise, (2, pairs)))
    return list(pace * own[0]), list(ratio * pace * own[1])


@pytest.mark.parametrize("seed", range(10))
def test_a_clearly_faster_model_is_kept_on_a_busy_machine(seed: int) -> None:
    assert tune.verdict(*times(0.8, 0.05, 60, seed)) is True


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("ratio", [1.05, 1.5])
def test_a_slower_model_is_never_kept(seed: int, ratio: float) -> None:
    old, new = times(ratio, 0.05, 60, seed)
    assert not any(tune.verdict(old[:n], new[:n]) for n in range(len(old) + 1))


def test_equal_times_are_not_faster() -> None:
    assert tune.verdict([1.0] * 20, [1.0] * 20) is False


def test_too_few_pairs_decide_nothing() -> None:
    assert tune.verdict([1.0] * (tune.PAIRS - 1), [0.5] * (tune.PAIRS - 1)) is None


def test_a_draw_stays_open() -> None:
    assert tune.verdict([1.0] * 40, [0.5, 2.0] * 20) is None

"""The verdict over two models by rounds: what noise does, and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt_passes.fuse import tune


def decided(ratio: float, noise: float, seed: int) -> bool:
    """Return the verdict on a model of that ratio of times, if rounds differ by so much noise."""
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    while (found := tune.verdict(ratios)) is None:
        ratios.append(ratio * float(np.exp(rng.normal(0, noise))))
    return found


def test_a_faster_model_is_kept_on_a_busy_machine() -> None:
    assert all(decided(0.85, 0.03, seed) for seed in range(200))


def test_a_slower_model_is_not_kept() -> None:
    assert not any(decided(1.06, 0.03, seed) for seed in range(1000))


def test_the_same_model_is_hardly_ever_kept() -> None:
    assert sum(decided(1.0, 0.03, seed) for seed in range(1000)) < 50


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], None),
        ([0.9] * 3, None),
        ([0.9] * 4, True),
        ([0.9, 1.1, 0.9, 0.9, 0.9], None),
        ([1.1] + [0.9] * 7, True),
        ([1.1, 0.9, 1.0], False),
        ([0.995, 0.995], False),
    ],
)
def test_rounds(ratios: list[float], expected: bool | None) -> None:
    assert tune.verdict(ratios) is expected

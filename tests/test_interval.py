"""What so many samples can tell of a drop, and how many more could."""

import numpy as np
import pytest

from onnxopt.interval import summarize


def flips(n, lost=0):
    return summarize("accuracy", [1.0] * n, [0.0] * lost + [1.0] * (n - lost), rare=True)


def test_none_of_few_is_no_proof_of_none():
    found = flips(51)
    assert (found.drop, found.error) == (0.0, pytest.approx(3 / 51))
    assert found.needed(0.01) == 300
    assert found.needed(0.05) == 60


def test_as_many_as_needed_are_enough():
    assert flips(300).error <= 0.01
    assert flips(299).error > 0.01


def test_losses_that_are_seen_ask_for_more():
    found = flips(500, lost=30)
    needed = found.needed(0.01)
    many = flips(needed, lost=round(0.06 * needed))
    assert needed > 2000
    assert many.error == pytest.approx(0.01, rel=0.01)


def test_smooth_scores_need_few():
    drops = np.random.default_rng(0).normal(0.001, 0.0005, 40)
    found = summarize("cosine", [1.0] * 40, list(1 - drops), rare=False)
    assert found.error < 0.001
    assert found.needed(0.01) == 2


def test_nothing_is_enough_for_no_drop_at_all_and_one_sample_says_nothing():
    assert flips(100).needed(0.0) is None
    assert flips(1).needed(0.01) is None
    assert flips(1).error == float("inf")


@pytest.mark.parametrize(("scores", "error"), [([1.0] * 50, 0.06), ([0.9] * 50, 0.0)])
def test_functions_of_right_and_wrong_are_seen_as_such(scores, error):
    found = summarize("mine:score", scores, scores, rare=False)
    assert found.error == pytest.approx(error)


def test_the_upper_end_is_held_to_the_limit_where_that_is_asked_for():
    few = flips(51)
    assert few.breach(0.01) == ""
    assert few.breach(0.01, upper=True) == (
        "may fall by 0.0588, the upper end of its interval on 51 held-out samples: more than 0.01;"
        " with 300 it could be told"
    )
    assert few.breach(0.0, upper=True).endswith("more than 0")
    assert flips(300).breach(0.01, upper=True) == ""

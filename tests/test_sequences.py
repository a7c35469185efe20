import itertools

import numpy as np
import pytest

from onnxopt import metrics, sequences
from onnxopt.errors import SpecError


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def spikes(path, classes=6, sure=0.98):
    """Probabilities whose likeliest path is given."""
    p = np.full((len(path), classes), (1 - sure) / (classes - 1))
    p[np.arange(len(path)), path] = sure
    return p


@pytest.mark.parametrize("symbols", [[], [1], [1, 2], [2, 2], [1, 2, 1]])
def test_the_probability_of_a_reading_is_the_sum_over_its_paths(symbols):
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(0, 1, (5, 3)))
    wanted = sum(
        float(np.prod(p[np.arange(5), list(path)]))
        for path in itertools.product(range(3), repeat=5)
        if sequences.reading(np.array(path), 0).tolist() == symbols
    )
    found = sequences.log_probability(np.log(p), np.array(symbols, np.int64), 0)
    assert np.exp(found) == pytest.approx(wanted)


def test_a_symbol_that_comes_a_step_earlier_reads_the_same():
    p = spikes([0, 0, 3, 0, 0, 4, 4, 0])
    assert sequences.worth(p, np.array([0, 3, 3, 0, 0, 0, 4, 0])) == 1.0


def test_runners_up_that_only_move_a_symbol_are_harmless():
    p = spikes([0, 0, 3, 3, 0, 4, 0, 0], sure=0.6)
    p[1, 3] = p[3, 0] = p[4, 4] = p[6, 2] = 0.3
    found = sequences.harmless(p / p.sum(-1, keepdims=True), 0)
    assert found[[1, 3, 4]].all()  # 3 comes earlier, 3 is shorter, 4 comes earlier
    assert not found[6]  # a 2 more
    sure = spikes([0, 0, 3, 3], sure=1 - 1e-9)
    assert not sequences.harmless(sure, 0).any()


@pytest.mark.parametrize("path", [[0, 0, 2, 0, 0, 4], [0, 0, 0, 0, 0, 4], [1, 0, 3, 0, 0, 4]])
def test_another_a_missing_and_an_added_symbol_lose_the_line(path):
    assert sequences.worth(spikes([0, 0, 3, 0, 0, 4]), np.array(path)) < 0.15


def test_a_change_between_near_ties_costs_little():
    p = spikes([0, 0, 3, 0, 0, 4])
    p[2] = [0.02, 0, 0.47, 0.49, 0.02, 0]
    found = sequences.worth(p, np.array([0, 0, 2, 0, 0, 4]))
    assert 0.97 < found < 1


def test_a_line_that_is_unsure_anyway_costs_less_but_never_next_to_nothing():
    sure, unsure, hopeless = (
        1 - sequences.worth(spikes(path, sure=p), np.array([0, 0, 2, *path[3:]]))
        for path, p in (([0, 0, 3, 0], 0.98), ([0, 0, 3, 0], 0.8), ([0, 0, 3, 0] * 20, 0.8))
    )
    assert sure > 0.85
    assert 0.3 < unsure < 0.7
    assert 0.2 < hopeless <= 0.25


def test_one_line_in_sixty_weighs_the_same_however_long_it_is():
    for steps in (8, 200):
        path = np.zeros(steps, np.int64)
        path[1::4] = 3
        wrong = path.copy()
        wrong[5] = 2
        assert sequences.worth(spikes(path, sure=0.9999), wrong) < 0.1


def test_without_a_blank_every_step_counts():
    p = spikes([2, 2, 3, 3, 2, 2])
    assert sequences.blank_of(p.argmax(-1), 6) is None
    assert sequences.worth(p, np.array([2, 2, 2, 3, 2, 2])) < 0.15


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (spikes([0, 0, 3, 0])[None], "sequence"),
        (np.log(spikes([0, 0, 3, 0]))[None], "sequence"),
        (np.random.default_rng(0).normal(0, 1, (1, 4, 6)), "cosine"),
        (np.repeat(spikes([0, 0, 3, 0]), 1000, 0)[None], "cosine"),
        (spikes([0, 0, 3, 0]), "expected-accuracy"),
    ],
)
def test_the_metric_follows_from_the_output(output, wanted):
    assert metrics.choose(None, {"y": output.astype(np.float32)}, False).name == wanted


def test_the_mean_over_the_batch():
    want = np.stack([spikes([0, 3, 0, 4]), spikes([0, 3, 0, 4])]).astype(np.float32)
    got = np.stack([spikes([0, 3, 0, 4]), spikes([0, 2, 0, 4])]).astype(np.float32)
    assert metrics.sequence({"y": got}, {"y": want}, None) == pytest.approx(0.5, abs=0.1)


def test_another_shape_is_another_reading():
    want = spikes([0, 3, 0, 4])[None].astype(np.float32)
    assert metrics.sequence({"y": want[:, :3]}, {"y": want}, None) == 0.0


def test_it_needs_steps():
    with pytest.raises(SpecError, match="batch, steps, classes"):
        metrics.choose("sequence", {"y": np.zeros((1, 6), np.float32)}, False)

import numpy as np

from onnxopt import metrics
from onnxopt.interval import Verdict
from onnxopt.margins import Margins


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rows(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (n, 10))
    return scores, scores + rng.normal(0, noise, scores.shape)


def foreseen(n, noise, seed=0):
    margins = Margins()
    for want, got in zip(*rows(n, noise, seed), strict=True):
        margins.add({"y": want[None]}, {"y": got[None]})
    return margins.drop()


def test_a_metric_that_margins_say_nothing_of_foresees_nothing():
    margins = Margins("cosine")
    margins.add({"y": np.array([[0.5, 0.4, 0.1]])}, {"y": np.array([[0.1, 0.8, 0.1]])})
    assert margins.drop() == 0


def test_few_samples_foresee_what_many_show():
    want, got = rows(100_000, 0.8)
    p = softmax(want)
    chosen = np.take_along_axis(p, got.argmax(-1)[:, None], -1)[:, 0]
    shown = float(np.mean(p.max(-1) - chosen))
    found = [foreseen(60, 0.8, seed) for seed in range(20)]
    assert shown > 0.005
    assert abs(np.mean(found) - shown) < 0.3 * shown
    assert min(found) > 0.3 * shown, "no set of 60 samples says that all is well"


def a_line(seed, noise, steps=24, classes=40):
    """A line of raw scores, time first, mostly blank, and the same disturbed."""
    rng = np.random.default_rng(seed)
    path = np.where(np.arange(steps) % 5 == 2, rng.integers(1, classes, steps), 0)
    want = rng.normal(0, 1, (steps, 1, classes))
    want[np.arange(steps), 0, path] += rng.gamma(6, 2.2, steps)
    return want, want + rng.normal(0, noise, want.shape)


def test_lines_lose_what_their_steps_lose_together():
    lost, found = [], []
    for start in range(0, 800, 40):
        margins = Margins("logits")
        for seed in range(start, start + 40):
            want, got = a_line(seed, 0.8)
            margins.add({"y": want}, {"y": got})
            lost.append(1 - metrics.sequence({"y": got}, {"y": want}, None))
        found.append(margins.drop())
    shown = float(np.mean(lost))
    assert shown > 0.01
    assert 0.7 * shown < np.mean(found) < 1.5 * shown
    assert min(found) > 0.4 * shown, "no set of 40 lines says that all is well"


def test_symbols_that_move_are_no_disturbance():
    margins, spoilt = Margins("logits"), Margins("logits")
    for seed in range(20):
        want, got = a_line(seed, 0.1)
        got[[2, 3]] = got[[3, 2]]  # the first symbol comes a step later
        margins.add({"y": want}, {"y": got})
        wrong = got.copy()
        wrong[3] = np.roll(got[3], 1, axis=-1)  # and is another one
        spoilt.add({"y": want}, {"y": wrong})
    assert margins.drop() < 0.01
    assert spoilt.drop() > 0.3


def test_where_each_step_says_something_it_counts_as_one():
    want, got = rows(400, 0.8)
    margins, steps = Margins(), Margins("logits")
    margins.add({"y": want}, {"y": got})
    want[:, [0, 9]] -= 9  # no class stands for nothing
    got[:, [0, 9]] -= 9
    steps.add({"y": want.reshape(20, 20, 10)}, {"y": got.reshape(20, 20, 10)})
    assert 0.3 * margins.drop() < steps.drop() < 3 * margins.drop()


def test_equal_answers_lose_nothing():
    assert foreseen(50, 0.0) == 0.0


def test_outputs_that_are_no_class_scores_say_nothing():
    margins = Margins()
    margins.add({"y": np.zeros((1, 3, 8, 8), np.float32)}, {"y": np.ones((1, 3, 8, 8), np.float32)})
    assert margins.drop() == 0.0


def test_few_samples_without_a_flip_do_not_hide_what_margins_foresee():
    few = Verdict("accuracy", 1.0, 0.0, 0.06, 50, foreseen=0.03)
    assert "is going to fall by 0.0300 on many" in few.breach(0.01)
    assert few.breach(0.05) == ""


def test_many_samples_need_no_foresight():
    assert Verdict("accuracy", 1.0, 0.0, 0.003, 1000, foreseen=0.03).breach(0.01) == ""


def test_a_drop_that_is_seen_is_a_breach():
    assert "falls by 0.0200 (+-0.0030), more than 0.01" in Verdict(
        "cosine", 0.98, 0.02, 0.003, 100
    ).breach(0.01)

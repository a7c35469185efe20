import numpy as np

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


def test_few_samples_foresee_what_many_show():
    want, got = rows(100_000, 0.8)
    p = softmax(want)
    chosen = np.take_along_axis(p, got.argmax(-1)[:, None], -1)[:, 0]
    shown = float(np.mean(p.max(-1) - chosen))
    found = [foreseen(60, 0.8, seed) for seed in range(20)]
    assert shown > 0.005
    assert abs(np.mean(found) - shown) < 0.3 * shown
    assert min(found) > 0.3 * shown, "no set of 60 samples says that all is well"


def test_equal_answers_lose_nothing():
    assert foreseen(50, 0.0) == 0.0


def test_outputs_that_are_no_class_scores_say_nothing():
    margins = Margins()
    margins.add({"y": np.zeros((1, 3, 8, 8), np.float32)}, {"y": np.ones((1, 3, 8, 8), np.float32)})
    assert margins.drop() == 0.0

"""Raw scores of classes, by steps or places, are told from other floats, and scored."""

import numpy as np
import pytest

from onnxopt import metrics, segments

RNG = np.random.default_rng(0)
BLANKS = np.array([0, 0, 3, 0, 0, 4, 4, 0, 7, 0])
TOKENS = np.array([2, 2, 3, 1, 2, 4, 5, 1])


def scores(path, classes=30, gap=9.0):
    """Scores as training leaves them: centred, one class above the others."""
    found = RNG.normal(0, 1, (len(path), classes))
    found[np.arange(len(path)), path] += gap
    return (found - found.mean(-1, keepdims=True)).astype(np.float32)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def squares(size=24, classes=4, gap=8.0):
    """A map of class 0 with a square of each other class."""
    kinds = np.zeros((size, size), np.int64)
    for k in range(1, classes):
        kinds[6 * k : 6 * k + 5, 3:15] = k
    return np.moveaxis(scores(kinds.ravel(), classes, gap).reshape(size, size, classes), -1, 0)[
        None
    ]


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


boxes = np.cumsum(RNG.uniform(20, 90, (1, 300, 4)), -1)

LOGITS = {
    "time first": scores(BLANKS)[:, None],
    "batch first": scores(BLANKS)[None],
    "tokens": scores(TOKENS, 9)[None],
    "a vocabulary": (scores(TOKENS, 64 * 200, 12) - 30)[None],
}
OTHERS = {
    "features": layer_norm(RNG.normal(0, 1, (1, 30, 300))),
    "features of a layer's width": 6 * RNG.normal(0, 1, (1, 30, 384)),
    "boxes": boxes,
    "offsets": RNG.normal(0, 9, (1, 300, 4)),
    "key points": RNG.uniform(0, 200, (1, 17, 3)),
    "a state": np.tanh(RNG.normal(0, 1, (2, 1, 100))),
    "a key point table": np.concatenate([boxes[0].T, RNG.uniform(0, 600, (34, 300))])[None],
    "sound": RNG.uniform(-1, 1, (1, 2, 16000)),
    "not numbers": np.full((1, 5, 9), np.nan),
}
IMAGES = {
    "an image": RNG.uniform(0, 255, (1, 3, 16, 16)),
    "a normalised image": RNG.uniform(-1, 1, (1, 3, 16, 16)),
    "motion": RNG.normal(0, 9, (1, 2, 16, 16)),
    "a feature map": RNG.normal(0, 9, (1, 128, 8, 8)),
    "a mask": RNG.uniform(0, 1, (1, 1, 16, 16)),
}


def chosen(output):
    return metrics.choose(None, {"y": output.astype(np.float32)}, False).name


@pytest.mark.parametrize("kind", LOGITS)
def test_logits_are_known_by_their_values(kind):
    assert chosen(LOGITS[kind]) == "logits"


@pytest.mark.parametrize("kind", [*OTHERS, *IMAGES])
def test_other_floats_are_none(kind):
    assert chosen((OTHERS | IMAGES)[kind]) == "cosine"


def test_probabilities_with_the_steps_first_are_a_line():
    output = softmax(scores(BLANKS))[:, None]
    assert chosen(output) == "sequence"
    wrong = output.copy()
    wrong[2] = np.roll(wrong[2], 1)
    assert metrics.sequence({"y": wrong}, {"y": output}, None) < 0.2


def test_class_scores_of_a_last_convolution_are_class_scores():
    output = softmax(scores(TOKENS, 10))
    assert chosen(output[..., None, None]) == "expected-accuracy"
    assert metrics.choose(None, {"y": output[..., None, None]}, True).name == "accuracy"
    assert metrics.accuracy({"y": output[..., None, None]}, {}, TOKENS) == 1.0


def worth(want, got):
    return metrics.logits({"y": got}, {"y": want}, None)


def test_logits_score_the_source_itself_with_one():
    assert all(worth(x, x) == pytest.approx(1.0) for x in LOGITS.values())


def test_a_symbol_that_changes_loses_its_line():
    want = np.repeat(scores(BLANKS, gap=15), 20, 0)[:, None]
    got = want.copy()
    got[40:60] = np.roll(got[40:60], 1, -1)
    assert worth(want, got) < 0.2


def test_a_step_that_changes_is_one_step_where_each_says_something():
    want = scores(np.tile(TOKENS, 25), 9, 12)[None]
    got = want.copy()
    top, other = TOKENS[3], 7
    got[0, 3, [top, other]] = got[0, 3, [other, top]]
    assert 1 - worth(want, got) == pytest.approx(1 / 200, rel=0.3)


def test_an_entity_that_moves_costs_though_it_reads_the_same():
    want = scores(BLANKS, 9)[None]
    got = want[:, np.r_[1:10, 0]]
    assert metrics.sequence({"y": got}, {"y": want}, None) == 1.0
    assert worth(want, got) < 0.7


def test_scores_that_only_drift_lose_their_cosine():
    want = scores(BLANKS)[None]
    got = want + 1.5 * np.sign(RNG.normal(0, 1, (1, 1, 30))) * (want < 3)
    assert (want.argmax(-1) == got.argmax(-1)).all()
    assert worth(want, got) == pytest.approx(metrics.cosine({"y": got}, {"y": want}, None))
    assert worth(want, got) < 0.95


@pytest.mark.parametrize("make", [lambda x: x, lambda x: softmax(x, 1)])
def test_maps_of_classes_are_scored_by_what_they_cover(make):
    want = make(squares()).astype(np.float32)
    assert chosen(want) == "segments"
    got = want.copy()
    got[..., 12:17, 3:15] = want[..., :5, 3:15]  # the second square is gone
    score = metrics.segmented({"y": got}, {"y": want}, None)
    assert 1 - score == pytest.approx(0.27, abs=0.03)  # a whole class of four, and what 0 gained
    assert metrics.segmented({"y": want}, {"y": want}, None) == 1.0


def test_near_ties_and_specks_cost_little():
    want = squares()
    tie = want.copy()
    tie[0, :2, 0, :] = 4.0
    tie[0, 0, 0, :] += 0.01
    assert segments.lost(tie, tie[:, [1, 0, 2, 3]]) > 0.4  # all places of both classes
    flipped = tie.copy()
    flipped[0, 1, 0, :] += 0.02
    sure = want.copy()
    sure[0, :2, 0, :] = want[0, [1, 0], 0, :]
    assert abs(segments.lost(tie, flipped)) < 0.1 * segments.lost(want, sure)
    speck = want.copy()
    speck[0, :, 0, 0] = [0, -3, -3, 9]
    assert 0 < segments.lost(speck, want) < 0.01


def test_another_shape_covers_nothing():
    assert segments.lost(squares(), squares(classes=3)) == 1.0
    assert metrics.segmented({"y": squares()[..., :9]}, {"y": squares()}, None) == 0.0


def test_a_sample_without_any_class_is_held_to_the_cosine():
    flat = np.zeros((1, 4, 8, 8), np.float32)
    assert metrics.segmented({"y": flat}, {"y": flat}, None) == 1.0

import numpy as np
import pytest

from onnxopt import metrics, readout


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 5, (4, 1000)).astype(np.float32)
FEATURES = np.maximum(RNG.normal(0, 6, (4, 512)), 0).astype(np.float32)


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ({"y": LOGITS}, "expected-accuracy"),
        ({"y": LOGITS[:, :2]}, "expected-accuracy"),
        ({"y": softmax(LOGITS[:, :256])}, "expected-accuracy"),
        ({"y": np.log(softmax(LOGITS[:, :256]))}, "expected-accuracy"),
        ({"y": unit(RNG.normal(0, 1, (1, 100)))}, "cosine"),
        ({"y": unit(RNG.normal(0, 1, (1, 256)))}, "cosine"),
        ({"y": FEATURES}, "cosine"),
        ({"y": RNG.normal(0, 0.5, (1, 100))}, "cosine"),
        ({"features": FEATURES, "y": LOGITS}, "expected-accuracy"),
        ({"y": 1 / (1 + np.exp(-LOGITS[:, :20]))}, "cosine"),
        ({"y": 1 / (1 + np.exp(-LOGITS[:1, :2]))}, "cosine"),
    ],
)
def test_embeddings_are_no_class_scores(outputs, wanted):
    assert metrics.choose(None, outputs, labelled=False).name == wanted


def test_labels_say_that_there_are_classes():
    assert metrics.choose(None, {"y": 0.01 * LOGITS}, labelled=True).name == "accuracy"


def test_an_embedding_that_is_ruined_loses_its_score():
    want = unit(RNG.normal(0, 1, (1, 256)))
    got = unit(want + 0.3 * unit(RNG.normal(0, 1, (1, 256))))
    chosen = metrics.choose(None, {"y": want}, labelled=False)
    assert (
        chosen.score({"y": want}, {"y": want}, None) - chosen.score({"y": got}, {"y": want}, None)
        > 0.02
    )


def test_scores_are_found_behind_features():
    found = readout.class_probabilities({"features": FEATURES, "y": LOGITS})
    assert found is not None
    assert found.shape == LOGITS.shape
    assert readout.class_probabilities({"features": FEATURES}) is None


@pytest.mark.parametrize(
    ("want", "got", "score"),
    [
        ([[0.0]], [[1e-9]], 1.0),  # a probability that one kernel rounds to zero
        ([[1e-9]], [[0.0]], 1.0),
        ([[0.0]], [[1.0]], 0.5**0.5),
        ([[0.0, 0.0]], [[0.0, 1e-6]], 1.0),
        ([[3e-3, 0.0]], [[0.0, 0.0]], 0.0),  # small features that are lost
        ([[1.0]], [[1.0, 1.0]], 0.0),
        ([[0.01]], [[np.nan]], 0.0),
        ([[0.0, 0.0]], [[np.nan, 0.0]], 0.0),
        ([[1.0, 2.0]], [[1.0, np.inf]], 0.0),
        ([[1.0, np.inf]], [[1.0, np.nan]], 1.0),  # what the source overflows in says nothing
    ],
)
def test_zeros_have_no_direction(want, got, score):
    outputs = [{"y": np.array(v, np.float32)} for v in (got, want)]
    assert metrics.cosine(*outputs, None) == pytest.approx(score, abs=1e-6)

import numpy as np
import pytest

from onnxopt import detections, metrics
from onnxopt.errors import SpecError

ANCHORS, CLASSES = 60, 3


def table(*found, objects=False):
    """An output as YOLOv8 makes it: (x, y, width, height, class, score) at one anchor each."""
    out = np.zeros((ANCHORS, 4 + CLASSES), np.float32)
    out[:, 2:4] = 20
    out[:, 4:] = 0.01
    for i, (*box, kind, score) in enumerate(found):
        out[i, :4] = box
        out[i, 4 + kind] = score
    if not objects:
        return out.T[None]
    scores = out[:, 4:].max(1, keepdims=True)
    return np.concatenate([out[:, :4], scores, out[:, 4:] / scores], axis=1)[None]


CAT, DOG = (50, 50, 40, 40, 0, 0.9), (150, 50, 40, 60, 1, 0.8)


def score(want, got):
    return metrics.METRICS["detections"]({"y": got}, {"y": want}, None)


def test_the_same_detections_score_one():
    assert score(table(CAT, DOG), table(CAT, DOG)) == 1.0


@pytest.mark.parametrize("objects", [False, True])
def test_scores_are_not_hidden_by_boxes(objects):
    want = table(CAT, DOG, objects=objects)
    got = want.copy()
    channel = slice(4, 5) if objects else slice(4, None)
    view = got if objects else got.swapaxes(1, 2)
    view[..., channel] *= 0.2
    assert metrics.cosine({"y": got}, {"y": want}, None) > 0.9999
    assert score(want, got) == 0.0


def test_a_box_may_move_a_little_but_not_away():
    near, far = (54, 50, 40, 40, 0, 0.9), (80, 50, 40, 40, 0, 0.9)
    assert score(table(CAT), table(near)) == 1.0
    assert score(table(CAT), table(far)) == pytest.approx(0.0)


def test_another_class_is_another_detection():
    assert score(table(CAT), table((50, 50, 40, 40, 2, 0.9))) == pytest.approx(0.0)


def test_a_doubtful_detection_costs_little():
    doubtful = (250, 200, 30, 30, 2, 0.26)
    assert 0.98 < score(table(CAT, doubtful), table(CAT)) < 1
    assert score(table(CAT), table(CAT, DOG)) < 0.8, "an invented one does"


def test_boxes_of_one_thing_count_once():
    again = (51, 50, 40, 40, 0, 0.7)
    assert score(table(CAT, again), table(CAT)) == 1.0


def test_where_nothing_is_found_nothing_is_lost():
    assert score(table(), table()) == 1.0


@pytest.mark.parametrize("objects", [False, True])
def test_tables_of_boxes_and_scores_are_known(objects):
    assert metrics.choose(None, {"y": table(CAT, objects=objects)}, False).name == "detections"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y / 300,  # boxes as shares of the image
        lambda y: y - 10,  # scores below zero
        lambda y: y[:, :4],  # no scores
        lambda y: y[:, :, :5],  # more channels than anchors
        lambda y: y[0],
    ],
)
def test_other_outputs_are_none(spoil):
    assert metrics.choose(None, {"y": spoil(table(CAT))}, False).name != "detections"


def test_it_needs_such_a_table():
    with pytest.raises(SpecError, match="joins boxes in pixels and scores"):
        metrics.choose("detections", {"y": np.zeros((1, 6), np.float32)}, False)


def test_boxes_and_scores_apart():
    parts = detections.apart(table(CAT), 2)
    assert parts["scores"].shape == (1, ANCHORS, CLASSES)
    assert parts["boxes"][0, 0].tolist() == pytest.approx([45, 45, 36, 36])

"""What a quantized model is held to where there are no class scores."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.metrics import Metric
from onnxopt.model import Model
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.quant import trial as module
from onnxopt_passes.quant.trial import Trial

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8,4] x) => (float[1,8,4] mask, float[1,8,4] state)
<float s = {%g}> {
   mask = Mul(x, s)
   state = Identity(x)
}"""


def _model(scale):
    return Model.from_proto(onnx.parser.parse_model(TEXT % scale)).export()


def _drop(scale, **context):
    x = np.ones((1, 8, 4), np.float32)
    samples = Samples(lambda: [lambda: Sample({"x": x})] * 3, "here")
    return Trial(_model(1), samples, Context(**context)).judge(_model(scale)).drop


def test_a_wrong_scale_is_seen_though_the_cosine_is_one():
    assert _drop(0.5) == pytest.approx(0.125)


def test_a_metric_that_was_asked_for_is_not_second_guessed():
    assert _drop(0.5, metric="cosine") == pytest.approx(0.0, abs=1e-6)


def test_a_good_output_does_not_hide_a_bad_one():
    assert _drop(-1.0) == pytest.approx(2.0)


READER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8,4] x) => (float[1,8,4] y)
<float s = {%g}> {
   a = Mul(x, s)
   y = Softmax <axis = -1> (a)
}"""


def _reader(scale):
    return Model.from_proto(onnx.parser.parse_model(READER % scale)).export()


def _reading_trial(count=12):
    rng = np.random.default_rng(0)
    xs = [rng.normal(0, 4, (1, 8, 4)).astype(np.float32) for _ in range(count)]
    samples = Samples(lambda: [lambda x=x: Sample({"x": x}) for x in xs], "here")
    return Trial(_reader(1), samples, Context())


def test_noise_of_probabilities_of_sequences_is_that_of_their_logarithms():
    trial = _reading_trial()
    assert trial.metric.name == "sequence"
    assert trial.judge(_reader(1.1)).noise == pytest.approx(0.01, rel=0.3)
    assert trial.judge(_reader(1.1)).drop == 0


def test_a_drop_is_not_looked_at_further_once_it_is_too_large(monkeypatch):
    trial = _reading_trial()
    whole = trial.drop(_reader(-1))
    runs = []
    score = trial.metric.score
    counted = Metric("sequence", lambda *a: runs.append(1) or score(*a))
    monkeypatch.setattr(trial, "metric", counted)
    assert whole > 0.3
    assert 0.1 < trial.drop(_reader(-1), 0.1) <= whole
    assert len(runs) < len(trial.scores)


def test_drops_are_taken_on_all_samples_and_noise_on_few():
    trial = _reading_trial(150)
    assert trial.few == 100
    assert trial.drop(_reader(-1)) == pytest.approx(trial.judge(_reader(-1), 150).drop)
    assert trial.drop(_reader(-1)) != trial.judge(_reader(-1)).drop


DETECTOR = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,20] boxes, float[1,2,20] scores) => (float[1,6,20] y)
<float s = {%g}> {
   a = Mul(scores, s)
   y = Concat <axis = 1> (boxes, a)
}"""


def _detector(scale):
    return Model.from_proto(onnx.parser.parse_model(DETECTOR % scale)).export()


def _detecting_trial(*highest):
    """Return a trial whose samples have scores up to these."""
    rng = np.random.default_rng(0)
    feeds = [
        {
            "boxes": rng.uniform(20, 300, (1, 4, 20)).astype(np.float32),
            "scores": rng.uniform(0, high, (1, 2, 20)).astype(np.float32),
        }
        for high in highest
    ]
    samples = Samples(lambda: [lambda f=f: Sample(f) for f in feeds], "here")
    return Trial(_detector(1), samples, Context())


def test_scores_beside_boxes_of_pixels_have_a_noise_of_their_own():
    trial = _detecting_trial(*[0.9] * 4)
    assert trial.metric.name == "detections"
    assert trial.judge(_detector(0.9)).noise == pytest.approx(0.01, rel=1e-3)
    assert trial.judge(_detector(0.9)).drop >= 0.005 - 1e-6


def test_samples_with_the_most_to_detect_come_first():
    trial = _detecting_trial(0.1, 0.3, 0.9)
    assert trial.feed["scores"].max() > 0.3
    one = trial.judge(_detector(0.3), 1).drop
    assert one > trial.judge(_detector(0.3), 3).drop > 0


def test_images_with_nothing_on_them_say_nothing_of_noise():
    trial = _detecting_trial(0.9, 1e-4)
    moved = [trial._samples(), trial._samples()]  # the second image is all wrong, and near zero
    assert [v["scores"].max() > 0.3 for v, *_ in moved[0]] == [True, False]
    sums = module._Sums(trial)
    for (_, want, label), factor in zip(moved[1], (0.99, -1.0), strict=True):
        y = want["y"].copy()
        y[:, 4:] *= np.float32(factor)
        sums.add({"y": y}, want, label)
    assert sums.noise() == pytest.approx(1e-4, rel=0.02)


def test_where_nothing_was_to_detect_there_is_no_noise():
    trial = _detecting_trial(0.9)
    ((_, want, label),) = trial._samples()
    empty = {"y": np.zeros_like(want["y"])}
    empty["y"][:, :4] = want["y"][:, :4]
    sums = module._Sums(trial)
    sums.add(empty, empty, label)
    assert sums.noise() == 0.0


def test_models_before_a_large_candidate_are_freed(monkeypatch):
    # a graph is a ring of references, and its weights stay until the collector comes by
    monkeypatch.setattr(module, "LARGE", 0)
    x = np.ones((1, 8, 4), np.float32)
    trial = Trial(_model(1), Samples(lambda: [lambda: Sample({"x": x})] * 3, "here"), Context())
    gc.disable()
    try:
        before = Model.from_exported(_model(1))
        node = weakref.ref(before.graph.nodes[0])
        del before
        assert node() is not None
        trial.judge(_model(1))
        assert node() is None
    finally:
        gc.enable()


CLASSES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2] x) => (float[1,2] y)
<float[2] b = {0, %g}> {
   s = Add(x, b)
   y = Softmax <axis = -1> (s)
}"""


@pytest.mark.parametrize(
    ("metric", "drop"), [("expected-accuracy", np.tanh(0.5) / 2), ("cosine", 0.0)]
)
def test_where_few_samples_lose_those_that_were_fitted_count_too(metric, drop):
    def made(shift):
        return Model.from_proto(onnx.parser.parse_model(CLASSES % shift)).export()

    def samples(value):
        x = np.array([[value, 0]], np.float32)
        return Samples(lambda: [lambda: Sample({"x": x})] * 2, "here")

    trial = Trial(made(0), samples(90), Context(metric=metric), samples(1))
    assert trial.drop(made(3)) == pytest.approx(drop, abs=1e-6)
    assert trial.judge(made(3)).noise < 1e-9, "noise is that of samples nothing was fitted to"

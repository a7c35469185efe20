"""What a quantized model is held to where there are no class scores."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.samples.base import Sample, Samples
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

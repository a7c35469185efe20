"""The judge is 0 for the source, and larger the further away a model is."""

import numpy as np
import onnx.parser
import pytest
from residual import residual, samples_of

from onnxopt import Model
from onnxopt.errors import SpecError
from onnxopt.samples import synthetic
from onnxopt.statistics import linear
from onnxopt.testing import fill
from onnxopt_passes.prune.judge import Judge


def shifted(model: Model, scale: float) -> Model:
    found = model.clone()
    layer = linear.find_all(found.graph)[1]
    noise = np.random.default_rng(0).normal(0, scale, layer.shape)
    layer.write(layer.matrix() + noise)
    return found.clone()


def test_class_scores():
    model = residual()
    judge = Judge(model, samples_of(20).feeds())
    assert len(judge) == 20
    own = judge.of(model)
    assert own.divergence == pytest.approx(0, abs=1e-6)
    assert own.drop == 0
    near, far = (judge.of(shifted(model, s)) for s in (0.1, 1.0))
    assert 0 < near.divergence < far.divergence
    scored = Judge(model, samples_of(20).feeds(), "sqnr")
    assert scored.of(shifted(model, 1.0)).drop > scored.of(shifted(model, 0.1)).drop > 0


def test_other_outputs_are_compared_by_their_variance():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,4] x) => (float[N,3,5] y, int64[3] z) <float[4,5] w> {
       y = MatMul(x, w)
       z = Shape(y)
    }"""
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    feeds = [s.feed for s in synthetic(model.export().inputs, n=10)]
    judge = Judge(model, feeds, "cosine")
    assert judge.of(model).divergence == 0
    zero = model.clone()
    (layer,) = linear.find_all(zero.graph)
    layer.write(np.zeros(layer.shape))
    assert judge.of(zero.clone()).divergence == pytest.approx(1, rel=0.3)
    assert judge.of(zero.clone()).drop == pytest.approx(1)


def test_values_that_are_not_finite_are_infinitely_far():
    model = residual()
    judge = Judge(model, samples_of(4).feeds())
    broken = model.clone()
    layer = linear.find_all(broken.graph)[3]
    layer.write(np.full(layer.shape, np.nan))
    assert judge.of(broken.clone()).divergence == float("inf")


def test_a_metric_that_needs_labels_is_refused():
    with pytest.raises(SpecError, match="labels"):
        Judge(residual(), samples_of(2).feeds(), "accuracy")

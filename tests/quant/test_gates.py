"""Matrices of recurrent nodes seen as linear layers."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt import match
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import Tap, recurrent
from onnxopt.testing import fill
from onnxopt_passes.quant import readings

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[7,2,6] x) => (float[7,%d,2,5] y)
<float[%d,%d,6] w, float[%d,%d,5] r> {
   y, h = %s<hidden_size=5, direction="%s">(x, w, r)
}"""


@pytest.mark.parametrize(("op", "count"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize(("direction", "ways"), [("forward", 1), ("bidirectional", 2)])
def test_both_matrices_are_found_with_what_they_read(op, count, direction, ways):
    sizes = (ways, ways, 5 * count, ways, 5 * count, op, direction)
    model = Model.from_proto(fill(onnx.parser.parse_model(TEXT % sizes)))
    match.stamp(model.graph)
    layers = recurrent.find_all(model.graph)
    assert [layer.shape for layer in layers] == [(ways, 5 * count, 6), (ways, 5 * count, 5)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 2, 6)).astype(np.float32)
    samples = Samples(lambda: [lambda: Sample({"x": x})], "here")
    found = readings.read(model, layers, samples, Settings())
    (y,) = Tap(model, [model.graph.outputs[0]])({"x": x})
    inputs = x.reshape(-1, 6).mean(0)
    np.testing.assert_allclose(found[id(layers[0].weight)].floats, [inputs] * ways, rtol=1e-4)
    hidden = y.transpose(1, 0, 2, 3).reshape(ways, -1, 5).mean(1)
    np.testing.assert_allclose(found[id(layers[1].weight)].floats, hidden, rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_computed_is_no_layer():
    text = TEXT % (1, 1, 20, 1, 20, "LSTM", "forward")
    text = text.replace("(x, w, r)", "(x, v, r)").replace("   y, h", "   v = Neg(w)\n   y, h")
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    match.stamp(model.graph)
    assert [layer.hidden for layer in recurrent.find_all(model.graph)] == [True]

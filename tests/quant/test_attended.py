"""Factors of values pass through attention, and only where channels keep their order."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt import match, shapes
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.testing import fill
from onnxopt_passes.quant import equalize, smooth, units

ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[B,S,48] x) => (float[B,S,48] y)
<float[48,48] wq, float[48,48] wk, float[48,48] wv, float[48] bv, float[48,48] wo,
 int64[4] split = {0, 0, 4, 12}, int64[3] merge = {0, 0, 48}> {
   q = MatMul(x, wq)
   k = MatMul(x, wk)
   m = MatMul(x, wv)
   v = Add(m, bv)
   qs = Reshape(q, split)
   ks = Reshape(k, split)
   vs = Reshape(v, split)
   qt = Transpose<perm=[0,2,1,3]>(qs)
   kt = Transpose<perm=[0,2,3,1]>(ks)
   vt = Transpose<perm=[0,2,1,3]>(vs)
   scores = MatMul(qt, kt)
   p = Softmax(scores)
   o = MatMul(p, vt)
   ot = Transpose<perm=[0,2,1,3]>(o)
   joined = Reshape(ot, merge)
   y = MatMul(joined, wo)
}"""


def _model(text=ATTENTION):
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    shapes.infer(model)
    match.stamp(model.graph)
    return model


def _uneven():
    """Return the model with values of very different size."""
    model = _model()
    size = 8.0 ** np.linspace(-2, 1, 48)
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name in ("wv", "bv"):
                tensor.values = (tensor.values * size).astype(np.float32)
    return model


def _samples():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(1, n, 48)).astype(np.float32) for n in (3, 5, 7)]
    return Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")


def test_values_take_the_factors_in_and_nothing_is_added():
    model = _uneven()
    before = model.export()
    found = {"joined": smooth.measure(model, _samples(), Settings())["joined"]}
    assert found["joined"].max() > 4 * found["joined"].min()
    smooth.apply(model, found, {units.label(n) for n in model.graph.nodes})
    after = model.export()
    assert [n.op_type for n in after.proto.graph.node] == [
        n.op_type for n in before.proto.graph.node
    ]
    for feed in _samples().feeds():
        want, got = (Session(m).run(feed)["y"] for m in (before, after))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    again = smooth.measure(model, _samples(), Settings())
    assert "joined" not in again, "its channels are even"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ot = Transpose<perm=[0,2,1,3]>(o)", "ot = Transpose<perm=[0,1,2,3]>(o)"),
        ("ot = Transpose<perm=[0,2,1,3]>(o)", "ot = Transpose<perm=[0,2,3,1]>(o)"),
        ("vt = Transpose<perm=[0,2,1,3]>(vs)", "vt = Transpose<perm=[0,2,3,1]>(vs)"),
        ("vt = Transpose<perm=[0,2,1,3]>(vs)", "vt = Transpose<perm=[0,1,2,3]>(vs)"),
        ("o = MatMul(p, vt)", "kept = Transpose<perm=[0,1,3,2]>(vt)\n   o = MatMul(kept, p)"),
        ("joined = Reshape(ot, merge)", "f = Reshape(ot, merge)\n   joined = Sigmoid(f)"),
        ("merge = {0, 0, 48}", "merge = {0, -1, 24}"),
        ("y = MatMul(joined, wo)", "t = Tanh(joined)\n   u = MatMul(joined, wo)\n   y = Add(u, t)"),
        ("y = MatMul(joined, wo)", "t = Tanh(v)\n   u = MatMul(joined, wo)\n   y = Add(u, t)"),
    ],
)
def test_channels_that_are_mixed_or_read_elsewhere_are_left(old, new):
    text = ATTENTION.replace(old, new)
    assert "joined" in equalize.find(_model())
    assert "joined" not in equalize.find(_model(text))

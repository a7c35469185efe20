"""Equalization: the same floats, like channels, and only where that is exact."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt import match
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.testing import fill
from onnxopt_passes.quant import Quant, equalize
from onnxopt_passes.quant.trial import relative

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

DEPTHWISE = (
    HEAD
    + """g (float[1,4,10,10] x) => (float[1,8,6,6] y)
<float[8,4,1,1] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[8,8,3,3] w3> {
   a = Conv(x, w1, b1)
   r = Relu(a)
   d = Conv<group=8>(r, w2, b2)
   p = LeakyRelu<alpha=0.1>(d)
   y = Conv(p, w3)
}"""
)

NORM = (
    HEAD
    + """g (float[N,5,32] x) => (float[N,5,48] y, float[N,5,48] z)
<float[32] s, float[32] b, float[32,48] w1, float[32,48] w2> {
   n = LayerNormalization(x, s, b)
   y = MatMul(n, w1)
   z = MatMul(n, w2)
}"""
)


def _uneven(text, *names):
    """Return a model whose channels are of very different size at the weights named."""
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name in names:
                size = 8.0 ** np.linspace(-2, 1, len(tensor.values))
                shape = [-1] + [1] * (tensor.values.ndim - 1)
                tensor.values = (tensor.values * size.reshape(shape)).astype(np.float32)
    match.stamp(model.graph)
    return model


def _samples(shape, count=24):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for _ in range(count)]
    return Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")


CASES = [
    (DEPTHWISE, ("w1", "b1", "w2", "b2"), (1, 4, 10, 10), {"r", "p"}, "static"),
    (NORM, ("s", "b"), (1, 5, 32), {"n"}, "dynamic"),
]


@pytest.mark.parametrize(("text", "names", "shape", "tensors", "mode"), CASES)
def test_floats_do_not_change_by_a_bit(text, names, shape, tensors, mode):
    model = _uneven(text, *names)
    samples = _samples(shape)
    factors = equalize.measure(model, samples, Settings())
    assert set(factors) == tensors
    before = model.export()
    equalize.apply(model, factors, tensors)
    for feed in samples.feeds():
        want, got = (Session(m).run(feed) for m in (before, model.export()))
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6)
    again = equalize.measure(model, samples, Settings())
    assert all(np.abs(np.log2(s)).max() <= 2 for s in again.values())


@pytest.mark.parametrize(("text", "names", "shape", "tensors", "mode"), CASES)
def test_uneven_channels_lose_less(text, names, shape, tensors, mode):
    noise = {}
    for recover in ("none", "auto"):
        model = _uneven(text, *names)
        before = model.export()
        ctx = Context(calibration=_samples(shape), max_drop=1.0)
        Quant(mode=mode, timed=False, cpu="generic", recover=recover).run(model, ctx)
        after = [Session(m, Settings(True)) for m in (before, model.export())]
        noise[recover] = np.mean(
            [relative(*(s.run(f) for s in after)) for f in _samples(shape).feeds()]
        )
    assert noise["auto"] < 0.7 * noise["none"]
    assert set(ctx.evidence[f"{mode} recovery"]["equalization"]["kept"]) == tensors


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("r = Relu(a)", "r = Clip(a, low, high)"),
        ("r = Relu(a)", "r = HardSwish(a)"),
        ("r = Relu(a)", "r = Relu(a)\n   other = Sigmoid(a)"),
    ],
)
def test_only_what_factors_pass_through(old, new):
    text = DEPTHWISE.replace(old, new).replace(
        "<float[8,4", "<float low={0}, float high={6}, float[8,4"
    )
    text = text.replace("(float[1,8,6,6] y)", "(float[1,8,6,6] y, float[1,8,10,10] a)")
    if "other" in new:
        text = text.replace("float[1,8,10,10] a", "float[1,8,10,10] other")
    else:
        text = text.replace(", float[1,8,10,10] a", "")
    assert set(equalize.find(_uneven(text))) == {"p"}


def test_a_tensor_that_the_graph_returns_stays():
    text = DEPTHWISE.replace("(float[1,8,6,6] y)", "(float[1,8,6,6] y, float[1,8,10,10] r)")
    assert set(equalize.find(_uneven(text))) == {"p"}


def test_even_channels_are_left_where_nothing_is_gained():
    model = _uneven(NORM)
    for node in model.graph.nodes:
        for tensor in node.inputs[1:]:
            if tensor.name in ("s", "w1", "w2"):
                tensor.values = np.sign(tensor.values) + (tensor.values == 0)
    samples = _samples((1, 5, 32), 200)
    factors = equalize.measure(model, samples, Settings())
    assert all(np.abs(np.log2(s)).max() <= 1 for s in factors.values())


@pytest.mark.parametrize(("text", "names", "shape", "tensors", "mode"), CASES)
def test_what_makes_channels_less_even_is_refused(text, names, shape, tensors, mode, monkeypatch):
    samples = _samples(shape)
    wrong = {
        name: 1 / s**2
        for name, s in equalize.measure(_uneven(text, *names), samples, Settings()).items()
    }
    monkeypatch.setattr(equalize, "measure", lambda *_: wrong)
    model = Model.from_proto(_uneven(text).to_proto())
    ctx = Context(calibration=samples, max_drop=1.0)
    Quant(mode=mode, timed=False, cpu="generic").run(model, ctx)
    found = ctx.evidence[f"{mode} recovery"]["equalization"]
    assert found["kept"] == []
    assert found["noise_after"] == found["noise_before"]
    assert equalize.STEP not in ctx.evidence[mode]["recovered"]


def test_a_remembered_plan_equalizes_again():
    made = []
    for _ in range(2):
        model = _uneven(DEPTHWISE, "w1", "b1", "w2", "b2")
        ctx = Context(calibration=_samples((1, 4, 10, 10)), max_drop=1.0)
        Quant(mode="static", timed=False, cpu="generic").run(model, ctx)
        made.append(model.export().whole().SerializeToString(deterministic=True))
    assert made[0] == made[1]
    assert ctx.evidence["static"]["recovered"]["equalization"]

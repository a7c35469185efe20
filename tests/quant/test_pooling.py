"""Means over images: the same numbers, and in integers where their readers are."""

from __future__ import annotations

import numpy as np
import pytest
from integers import HEAD, deployed_ops, noise

from onnxopt import shapes
from onnxopt.runtime import Session
from onnxopt_passes.quant import pooling

GATED = (
    HEAD
    + """g (float[1,16,12,12] x) => (float[1,16,12,12] y)
<float[16,16,3,3] w, float[16,16,1,1] s, float[16,16,1,1] v> {
   c = Conv<pads=[1,1,1,1]>(x, w)
   r = Relu(c)
   m = ReduceMean<axes=[2,3], keepdims=1>(r)
   e = Conv(m, s)
   h = Sigmoid(e)
   g = Mul(r, h)
   y = Conv(g, v)
}"""
)

LAST = (
    HEAD
    + """g (float[1,16,12,12] x) => (float[1,4] y) <float[16,16,3,3] w, float[16,4] v> {
   c = Conv<pads=[1,1,1,1]>(x, w)
   r = Relu(c)
   m = ReduceMean<axes=[-1,-2], keepdims=0>(r)
   y = Gemm(m, v)
}"""
)


@pytest.mark.parametrize("text", [GATED, LAST])
def test_no_mean_is_left_in_float(quantized, model, context, text):
    ctx = context((1, 16, 12, 12), max_drop=1.0)
    before, after, _ = quantized(model(text), ctx)
    counts = deployed_ops(after)
    assert counts["QLinearGlobalAveragePool"] == 1
    assert not {"ReduceMean", "GlobalAveragePool", "Conv"} & set(counts)
    assert counts["DequantizeLinear"] == 1, "nothing is dequantized but the output"
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.05


@pytest.mark.parametrize("text", [GATED, LAST])
def test_the_pool_is_the_mean(model, text):
    built = model(text)
    shapes.infer(built)
    before = built.export()
    assert pooling.write(built) == 1
    assert pooling.write(built) == 0
    x = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)
    want, got = (Session(m).run({"x": x})["y"] for m in (before, built.export()))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("axes=[2,3]", "axes=[1,2]"),
        ("axes=[2,3]", "axes=[3]"),
        ("axes=[2,3]", "axes=[1,2,3]"),
        ("ReduceMean<axes=[2,3], keepdims=1>", "ReduceMax<axes=[2,3], keepdims=1>"),
    ],
)
def test_other_reductions_are_left(model, old, new):
    text = GATED.replace(old, new).replace("e = Conv(m, s)", "e = Identity(m)")
    built = model(text)
    shapes.infer(built)
    assert pooling.write(built) == 0


def test_where_nothing_is_in_integers_means_stay_as_they_are(quantized, model, context):
    ctx = context((1, 16, 12, 12), max_drop=0.0, metric="sqnr")
    _, after, edits = quantized(model(LAST), ctx)
    assert not edits
    assert "ReduceMean" in {n.op_type for n in after.proto.graph.node}

"""Dynamic quantization: the form that onnxruntime fuses, and the choice of the mode."""

from __future__ import annotations

from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnxopt import deployed
from onnxopt.parity import compare
from onnxopt.runtime import Session, Settings
from onnxopt_passes.quant import Quant, decide, dynamic, holding, saturation
from onnxopt_passes.quant.cpu import saturates
from onnxopt_passes.quant.trial import relative

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

ENCODER = (
    HEAD
    + """g (float[N,64] x) => (float[N,64] y)
<float[64,96] w1, float[96] b1, float[64,96] w2, float[96,64] w3, float[64] b3> {
   m1 = MatMul(x, w1)
   a1 = Add(m1, b1)
   m2 = MatMul(x, w2)
   p = Mul(a1, m2)
   y = Gemm(p, w3, b3)
}"""
)


@pytest.mark.parametrize("cpu", ["x64", "x64-vnni"])
def test_products_fuse_and_share_their_input(model, context, cpu):
    built = model(ENCODER)
    before = built.export()
    ctx = context((5, 64), max_drop=1.0)
    assert Quant(mode="dynamic", timed=False, cpu=cpu).run(built, ctx) == 3
    after = built.export()
    onnx.checker.check_model(after.whole(), full_check=True)
    ops = Counter(n.op_type for n in after.proto.graph.node)
    assert ops["DynamicQuantizeLinear"] == 2
    made = Counter(n.op_type for n in deployed.rewritten(after, Settings()).graph.node)
    assert made["DynamicQuantizeMatMul"] + made["MatMulIntegerToFloat"] == 3
    assert not {"MatMul", "Gemm", "MatMulInteger"} & set(made)
    if cpu == "x64-vnni" and saturates():
        return  # on this machine only the narrowed file is right, which is what cpu=auto writes
    feed = next(iter(ctx.calibration)).feed
    want, got = Session(before).run(feed), Session(after).run(feed)
    assert max(d.drift for d in compare(want, got).values()) < 0.05


@pytest.mark.parametrize(("share", "edits"), [(0.98, 0), (0.9, 3)])
def test_integers_have_to_be_clearly_faster(model, context, monkeypatch, share, edits):
    # weights alone are as small, and lose less; 2 % is what two timings of one file differ by
    def interleave(*_, **__):
        return [SimpleNamespace(median=t, minimum=t) for t in (1.0, share)]

    monkeypatch.setattr(holding.timing, "interleave", interleave)
    built = model(ENCODER)
    Quant(mode="dynamic", cpu="generic").run(built, context((5, 64), max_drop=1.0))
    ops = Counter(n.op_type for n in built.export().proto.graph.node)
    assert ops["MatMulInteger"] == edits


def test_without_vnni_no_sum_of_two_weights_saturates():
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (64, 16)).astype(np.float32)
    overflow = partial(dynamic.overflows, axis=1, reached=dynamic.anything(weight, 1))
    limits = saturation.narrowed(weight, 1, overflow)
    params = dynamic.weight_params(weight, 1, limits, channelwise=True)
    integers = np.rint(weight / params.scale).astype(int)
    for part in (np.maximum(integers, 0), np.maximum(-integers, 0)):
        assert 255 * (part[1::2] + part[:-1:2]).max() <= 32767
    assert limits.max() > 64


def test_columns_that_do_not_saturate_on_samples_keep_all_of_int8(model, context):
    text = HEAD + "g (float[N,64] x) => (float[N,48] y) <float[64,48] w> { y = MatMul(x, w) }"
    built = model(text)
    before = built.export()
    ctx = context((6, 64), max_drop=1.0)
    Quant(mode="dynamic", timed=False, cpu="generic").run(built, ctx)
    after = built.export()
    found = ctx.evidence["dynamic recovery"]["full range"]
    assert found["kept"] == ["y"]
    assert found["noise_after"] < found["noise_before"]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    reached = np.abs(held["w.quantized"].astype(int)).max(0)
    weight = _weight(before)
    any_input = dynamic.anything(weight, 1)
    overflow = partial(dynamic.overflows, axis=1, reached=any_input)
    bound = saturation.narrowed(weight, 1, overflow)
    assert reached.mean() > 1.1 * bound.mean()
    pair = [Session(before), Session(after, Settings(True))]
    feeds = ctx.calibration.feeds()
    assert max(relative(*(s.run(f) for s in pair)) for f in feeds) < 0.001


def _weight(exported):
    return next(
        onnx.numpy_helper.to_array(t) for t in exported.whole().graph.initializer if t.name == "w"
    )


def test_without_saturation_there_is_nothing_to_widen(model, context):
    built = model(ENCODER)
    ctx = context((5, 64), max_drop=1.0)
    Quant(mode="dynamic", timed=False, cpu="x64-vnni").run(built, ctx)
    assert "full range" not in ctx.evidence["dynamic recovery"]


def test_tied_weights_stay_tied(model, context):
    text = (
        HEAD
        + """g (float[N,64] x) => (float[N,64] y) <float[64,64] w> {
       m = MatMul(x, w)
       y = MatMul(m, w)
    }"""
    )
    built = model(text)
    Quant(mode="dynamic", timed=False).run(built, context((5, 64), max_drop=1.0))
    held = [t for t in built.export().proto.graph.initializer if t.data_type == 3]
    assert len(held) == 1


def test_convolutions_are_never_made_dynamic(model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y) <float[8,8,3,3] w> {
       y = Conv<pads=[1,1,1,1]>(x, w)
    }"""
    )
    built = model(text)
    Quant(mode="dynamic", timed=False).run(built, context((1, 8, 12, 12), max_drop=1.0))
    assert "ConvInteger" not in {n.op for n in built.graph.nodes}


@pytest.mark.parametrize(
    ("body", "shape", "want"),
    [
        ("<float[8,8,3,3] w> { y = Conv(x, w) }", (1, 8, 9, 9), "static"),
        ("<float[9,64] w> { y = MatMul(x, w) }", (1, 8, 9, 9), "dynamic"),
        ("{ y = Relu(x) }", (1, 8, 9, 9), "weights"),
        (
            "<float[8,8,3,3] w, float[7,400] v> { c = Conv(x, w) y = MatMul(c, v) }",
            (1, 8, 9, 9),
            "hybrid",
        ),
    ],
)
def test_the_mode_follows_the_work(model, context, body, shape, want):
    text = HEAD + f"g (float[1,8,9,9] x) => (float[A,B,C,D] y) {body}"
    mode, why = decide.mode(model(text), context(shape))
    assert mode == want
    assert why


def test_weights_without_samples(model):
    from onnxopt.base import Context

    assert decide.mode(model(ENCODER), Context())[0] == "weights"

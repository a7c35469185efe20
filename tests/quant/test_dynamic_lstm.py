"""LSTMs in integers, by the operator that only onnxruntime has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxopt import cost, shapes
from onnxopt.runtime import Session
from onnxopt_passes.quant import Quant, decide, dynamic_lstm, holding, large
from onnxopt_passes.quant.trial import relative

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[T,1,24] x, float[2,1,32] h, float[2,1,32] c) => (float[T,2,1,32] y, float[2,1,32] last)
<float[2,128,24] w, float[2,128,32] r, float[2,256] b> {
   y, last, cell = LSTM<hidden_size = 32, direction = "bidirectional">(x, w, r, b, "", h, c)
}"""

PLAIN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[T,1,24] x) => (float[T,1,1,32] y)
<float[1,128,24] w, float[1,128,32] r> { y = LSTM<hidden_size = 32>(x, w, r) }"""


@pytest.fixture
def faster(monkeypatch):
    """Says of any two models that the second takes half the time."""
    monkeypatch.setattr(holding, "faster", lambda *_: (True, "2 ms, 1 ms"))


def ops(model):
    return [n.op_type for n in model.export().proto.graph.node]


def integers(model, saturates=True):
    shapes.infer(model)
    coded = {cell.name: cell.code(saturates) for cell in dynamic_lstm.find(model)}
    dynamic_lstm.place(model, coded, coded)
    return model.export()


def test_it_computes_what_the_float_one_does(model):
    before, after = model(TEXT).export(), integers(model(TEXT))
    assert [n.op_type for n in after.proto.graph.node] == ["DynamicQuantizeLSTM"]
    onnx.checker.check_model(after.whole())
    rng = np.random.default_rng(1)
    feed = {
        name: rng.normal(0, 1, shape).astype(np.float32)
        for name, shape in (("x", (9, 1, 24)), ("h", (2, 1, 32)), ("c", (2, 1, 32)))
    }
    want, got = Session(before).run(feed), Session(after).run(feed)
    assert relative(want, got) < 1e-3
    assert cost.measure(after, feed).macs == cost.measure(before, feed).macs


def test_no_two_products_leave_int16(model):
    weight = np.full((1, 128, 24), 0.5, np.float32)
    weight[0, 64:] *= np.where(np.arange(24) % 2, 1, -1)
    built = model(PLAIN)
    node = built.graph.nodes[0]
    node.inputs[1].values = weight
    (cell,) = dynamic_lstm.find(built)
    (narrow, scale), _ = cell.code(saturates=True)
    (wide, _), _ = cell.code(saturates=False)
    assert wide.max() == 127
    assert 2 * 255 * np.abs(narrow[0, :, :64].astype(int)).max() <= 32767
    assert np.abs(narrow[0, :, 64:]).max() == 127  # signs that differ cancel
    np.testing.assert_allclose(
        narrow[0] * scale[0], weight[0].T, atol=float(scale.max()) / 2 + 1e-7
    )


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(("target", "op"), [("ort-cpu", large.INTEGER_LSTM), ("portable", "LSTM")])
def test_only_for_the_runtime_that_has_it(model, context, target, op):
    built = model(PLAIN)
    ctx = context((9, 1, 24), target=target, max_drop=0.02)
    assert Quant().run(built, ctx) > 0
    assert op in ops(built)
    again = built.export().whole().SerializeToString()
    assert Quant().run(built, context((9, 1, 24), target=target)) == 0
    assert built.export().whole().SerializeToString() == again


def test_one_that_is_not_faster_stays(model, context, monkeypatch):
    monkeypatch.setattr(holding, "faster", lambda *_: (False, "1 ms, 2 ms"))
    built, ctx = model(PLAIN), context((9, 1, 24), target="ort-cpu", max_drop=0.02)
    Quant().run(built, ctx)
    assert "LSTM" in ops(built)
    assert any("an LSTM in integers is not faster" in str(v) for v in ctx.evidence.values())


@pytest.mark.usefixtures("faster")
def test_its_scales_are_no_weights_that_were_left(model, context):
    text = PLAIN.replace("128", "1200").replace("32", "300")
    built, ctx = model(text), context((9, 1, 24), target="ort-cpu", max_drop=1.0)
    Quant().run(built, ctx)
    assert large.INTEGER_LSTM in ops(built)
    assert ctx.untouched == {}


@pytest.mark.usefixtures("faster")
def test_one_that_costs_too_much_stays(model, context):
    built, ctx = model(PLAIN), context((9, 1, 24), target="ort-cpu", max_drop=1e-9)
    Quant(mode="dynamic").run(built, ctx)
    assert large.INTEGER_LSTM not in ops(built)
    assert any("too much accuracy" in str(v) for v in ctx.evidence.values())


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("hidden_size = 32", "hidden_size = 32, layout = 1"),
        PLAIN.replace("<float[1,128,24] w, float", "<float").replace(
            "x) =>", "x, float[1,128,24] w) =>"
        ),
        PLAIN.replace("LSTM<hidden_size = 32>", "GRU<hidden_size = 32>").replace("128", "96"),
        PLAIN.replace("128", "16").replace("32", "4"),
    ],
    ids=["layout", "weights that are fed", "a GRU", "a small one"],
)
def test_others_are_left(model, text):
    built = model(text)
    shapes.infer(built)
    assert dynamic_lstm.find(built) == []


@pytest.mark.parametrize(("target", "mode"), [("ort-cpu", "dynamic"), ("portable", "weights")])
def test_the_mode_follows_the_target(model, context, target, mode):
    found, why = decide.mode(model(PLAIN), context((9, 1, 24), target=target))
    assert (found, why) == (mode, "work is 100% LSTM")

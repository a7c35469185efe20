"""Floats of 16 bits: a float32 interface, islands where float16 ends, weights in half the bytes."""

import numpy as np
import onnx
import pytest

from onnxopt import spec
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.testing import apply
from onnxopt_passes.quant import Quant

COMPUTED = spec.parse("quant:mode=fp16:timed=false")

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,16,8,8] x) => (float[1,24,6,6] y, float[1,24,6,6] r)
  <float[24,16,3,3] w, float[24] b, float[1] k>
{ c = Conv(x, w, b)  r = Relu(c)  y = Mul(r, k) }"""

RANGES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4,40] x) => (float[4,50] y) <float[40,50] w, float[50] b>
{ c = MatMul(x, w)  s = Mul(c, c)  y = Add(s, b) }"""

BODY = """<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[3,40] x) => (float[3,50] y) <float[40,50] w>
{
  a = Abs(x)
  y = If(c) <
    then_branch = t () => (float[3,50] p) { p = MatMul(a, w) },
    else_branch = e () => (float[3,50] q) { m = Neg(a)  q = MatMul(m, w) }
  >
}"""

RESIZE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,4,4] x) => (float[1,3,8,8] y, float[1,3,8,8] z, bool[1,3,8,8] b)
  <float[4] scales = {1.0, 1.0, 2.0, 2.0}, float low = {0.0}>
{ y = Resize<mode="nearest">(x, , scales)  z = Max(y, low)  b = Greater(y, low) }"""


def ran(exported, feed):
    return [Session(exported, Settings(o)).run(feed) for o in (False, True)]


def kinds(exported):
    return {t.name: t.data_type for t in exported.proto.graph.initializer}


@pytest.mark.parametrize("text", [NET, RANGES, BODY, RESIZE], ids=["net", "wide", "body", "resize"])
def test_interface_stays_and_outputs_agree(model, text):
    before = model(text).export()
    after, edits = apply(COMPUTED, before)
    onnx.checker.check_model(after.whole(), full_check=True)
    assert edits
    assert after.proto.graph.input == before.proto.graph.input
    assert after.proto.graph.output == before.proto.graph.output
    rng = np.random.default_rng(0)
    feed = {p.name: rng.normal(0, 1, p.shape).astype(p.dtype) for p in before.inputs}
    want = Session(before).run(feed)
    for got in ran(after, feed):
        for name, value in want.items():
            np.testing.assert_allclose(
                got[name].astype(float), value.astype(float), rtol=0, atol=np.abs(value).max() / 200
            )


def test_nodes_that_meet_have_no_casts_between_them(model):
    after, edits = apply(COMPUTED, model(NET).export())
    ops = [n.op_type for n in after.proto.graph.node]
    assert edits == 3
    assert ops.count("Cast") == 3  # the input, and two outputs
    assert onnx.TensorProto.FLOAT not in kinds(after).values()


def test_what_leaves_the_range_on_samples_stays_in_float32(model, context):
    source = model(RANGES)
    before = source.export()
    ctx = context((4, 40), scale=300.0)
    Quant(mode="fp16", timed=False).run(source, ctx)
    assert "range" in ctx.untouched["node s"]
    feed = dict(next(iter(ctx.calibration)).feed)
    want = Session(before).run(feed)["y"]
    for got in ran(source.export(), feed):
        assert np.isfinite(got["y"]).all()
        assert np.linalg.norm(got["y"] - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("value", ["1e-12", "3e38"])
def test_constants_that_float16_lacks_make_an_island(model, value):
    source = model(f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y) <float e = {{{value}}}> {{ a = Abs(x)  y = Add(a, e) }}""")
    ctx = Context()
    assert Quant(mode="fp16", timed=False).run(source, ctx) == 1
    assert list(ctx.untouched) == ["node y"]


def test_weights_of_bodies_are_stored_in_16_bits(model):
    before = model(BODY).export()
    after, _ = apply(COMPUTED, before)
    assert after.nbytes < 0.7 * before.nbytes


def test_bfloat16_is_stored_and_cast_at_load(model):
    before = model(NET).export()
    after, edits = apply(spec.parse("quant:mode=bf16"), before)
    assert edits == 1
    assert onnx.TensorProto.BFLOAT16 in kinds(after).values()
    feed = {"x": np.random.default_rng(0).normal(0, 1, (1, 16, 8, 8)).astype(np.float32)}
    want = Session(before).run(feed)["y"]
    for got in ran(after, feed):
        error = np.linalg.norm(got["y"] - want) / np.linalg.norm(want)
        assert 0 < error < 0.01


def test_a_second_run_finds_nothing(model):
    for passes in (COMPUTED, spec.parse("quant:mode=bf16")):
        once, _ = apply(passes, model(NET).export())
        again, edits = apply(passes, once)
        assert edits == 0
        assert again.whole() == once.whole()


def test_a_model_without_floats_is_left_alone(model):
    source = model("""<ir_version: 8, opset_import: ["" : 17]>
    g (int64[N] x) => (int64[N] y) { y = Neg(x) }""")
    before = source.export().whole()
    ctx = Context()
    assert Quant(mode="fp16").run(source, ctx) == 0
    assert source.export().whole() == before
    assert any("no node can compute" in note for note in ctx.notes)


def test_weights_too_large_for_float16_stay(model):
    source = Model.from_proto(model(BODY).to_proto())
    for _, graph in source.graphs():
        for node in graph.nodes:
            for tensor in node.inputs:
                if tensor.name == "w":
                    tensor.values = np.full((40, 50), 1e5, np.float32)
    ctx = Context()
    Quant(mode="fp16").run(source, ctx)
    assert any("65504" in why for why in ctx.untouched.values())

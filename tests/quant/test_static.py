"""Static quantization: what is placed, what onnxruntime makes of it, and the traps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from integers import HEAD, RESIDUAL, SILU, deployed_ops, noise, ops

from onnxopt.model import Model
from onnxopt_passes.quant import Quant


@pytest.mark.parametrize(("text", "count"), [(RESIDUAL, 3), (SILU, 4)])
def test_branches_meet_in_integers(quantized, model, context, text, count):
    # onnxruntime's own default leaves every convolution around a branch in float
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = quantized(model(text), ctx)
    assert edits == count
    counts = deployed_ops(after)
    integer = sum(n for op, n in counts.items() if op.startswith("QLinear"))
    assert integer == count
    assert not {"Conv", "Add", "Mul"} & set(counts)
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    feed = next(iter(ctx.calibration)).feed
    assert noise(before, after, feed) < 0.05


def test_weights_are_symmetric_int8_a_channel_and_activations_uint8(quantized, model, context):
    _, after, _ = quantized(model(RESIDUAL), context((1, 8, 12, 12), max_drop=1.0))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    weights = [v for n, v in held.items() if n.endswith(".weight")]
    assert [w.dtype for w in weights] == [np.int8] * 2
    assert all(np.abs(w.astype(int)).max((1, 2, 3)).tolist() == [127] * 8 for w in weights)
    biases = [v for n, v in held.items() if n.endswith(".bias")]
    assert [b.dtype for b in biases] == [np.int32] * 2
    assert not any(v.dtype == np.float32 and v.size > 64 for v in held.values())


def test_a_long_bias_in_int32_is_not_listed_as_left_alone(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,4,4] x) => (float[1,1040,4,4] y)
    <float[1040,8,1,1] w, float[1040] b> { y = Conv(x, w, b) }"""
    )
    ctx = context((1, 8, 4, 4), max_drop=1.0)
    _, after, _ = quantized(model(text), ctx)
    held = {t.name: t.data_type for t in after.proto.graph.initializer}
    assert held["y.bias"] == onnx.TensorProto.INT32
    assert not ctx.untouched


def test_activations_go_where_saturation_says_the_same(quantized, model, context):
    _, after, _ = quantized(model(RESIDUAL), context((1, 8, 12, 12), max_drop=1.0))
    assert ops(after)["Relu"] == 0


BOUNDED = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w, float[8,8,1,1] v, float one = {-0.3}, float peak = {0.5},
 float[1,1,1,1] high, float[1,8,1,1] wide> {
   c = Conv<pads=[1,1,1,1]>(x, w)
   l = LeakyRelu<alpha=0.2>(c)
   b = Max(l, one)
   y = Conv(b, v)
}"""
)


def _bounded(model, bound):
    built = model(BOUNDED.replace("Max(l, one)", bound))
    for tensor in built.graph.tensors().values():
        if tensor.name == "high":
            tensor.values = np.full(tensor.values.shape, 0.5, np.float32)
    return built


@pytest.mark.parametrize(
    ("bound", "clip"),
    [
        ("Max(l, one)", "Clip(l, one)"),
        ("Max(one, l)", "Clip(l, one)"),
        ("Min(l, high)", "Clip(l, , peak)"),
    ],
)
def test_bounds_around_zero_are_saturation(quantized, model, context, bound, clip):
    lost = []
    for text in (bound, clip):
        ctx = context((1, 8, 12, 12), max_drop=1.0)
        before, after, _ = quantized(_bounded(model, text), ctx)
        assert not {"Max", "Min", "Clip"} & set(ops(after))
        lost.append(noise(before, after, next(iter(ctx.calibration)).feed))
    assert lost[0] == pytest.approx(lost[1], rel=1e-3)


@pytest.mark.parametrize(
    "bound", ["Max(l, high)", "Min(l, one)", "Max(l, one, one)", "Max(l, c)", "Max(l, wide)"]
)
def test_other_bounds_stay(quantized, model, context, bound):
    # a maximum with a number above zero, with a tensor, or with more than a number
    _, after, _ = quantized(_bounded(model, bound), context((1, 8, 12, 12), max_drop=1.0))
    assert ops(after)["Max"] + ops(after)["Min"] == 1


def test_a_bound_that_adds_an_axis_is_none(quantized, model, context):
    text = BOUNDED.replace("float one = {-0.3}", "float[1,1,1,1,1] one").replace(
        "y = Conv(b, v)", "s = Squeeze(b, first)\n   y = Conv(s, v)"
    )
    text = text.replace("float[1,1,1,1] high", "int64[1] first = {0}, float[1,1,1,1] high")
    built = model(text)
    built.graph.tensors()["one"].values = np.full((1,) * 5, -0.3, np.float32)
    _, after, _ = quantized(built, context((1, 8, 12, 12), max_drop=1.0))
    assert ops(after)["Max"] == 1


def test_an_op_without_integer_kernel_gets_no_q_and_dq(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
    <float[8,8,3,3] w, float[12] s, float[12] b> {
       c = Conv<pads=[1,1,1,1]>(x, w)
       h = Elu(c)
       y = LayerNormalization(h, s, b)
    }"""
    )
    _, after, _ = quantized(model(text), context((1, 8, 12, 12), max_drop=1.0))
    assert ops(after)["QuantizeLinear"] == 2
    assert deployed_ops(after)["QLinearConv"] == 1


def test_elements_move_in_integers(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,8,8] y)
    <float[8,8,3,3] w1, float[8,8,1,1] w2, int64[8] pads = {0,0,1,1,0,0,1,1}> {
       c = Conv(x, w1)
       m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
       p = Pad(m, pads)
       t = Transpose<perm=[0,1,3,2]>(p)
       y0 = Conv(t, w2)
       y = Pad(y0, pads2)
    }"""
    )
    text = text.replace("y0 = Conv(t, w2)\n       y = Pad(y0, pads2)", "y = Conv(t, w2)")
    text = text.replace("float[1,8,8,8] y", "float[1,8,7,7] y")
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = quantized(model(text), ctx)
    assert edits == 5
    assert ops(after)["QuantizeLinear"] == 3
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.05


def test_written_and_deployed_say_the_same_without_vnni(quantized, model, context):
    # sums of products saturate int16 on such CPUs, this one perhaps
    text = (
        HEAD
        + """g (float[1,64,6,6] x) => (float[1,8,6,6] y) <float[8,64,1,1] w> {
       r = Relu(x)
       y = Conv(r, w)
    }"""
    )
    built = model(text)
    weight = built.graph.nodes[1].inputs[1]
    weight.values = np.full((8, 64, 1, 1), 0.5, np.float32)
    ctx = context((1, 64, 6, 6), max_drop=1.0)
    before, after, _ = quantized(built, ctx, cpu="x64")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    assert max(np.abs(v.astype(int)).max() for v in held.values() if v.dtype == np.int8) < 127
    feed = next(iter(ctx.calibration)).feed
    assert noise(before, after, feed, optimize=True) < 0.03


def test_only_guilty_channels_are_narrowed(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,64,6,6] x) => (float[1,2,6,6] y) <float[2,64,1,1] w> {
       r = Relu(x)
       y = Conv(r, w)
    }"""
    )
    built = model(text)
    weight = built.graph.nodes[1].inputs[1]
    values = np.ones((2, 64, 1, 1), np.float32)
    values[0, 1::2] = 0.001  # beside a zero, 127 * 255 fits
    weight.values = values
    _, after, _ = quantized(built, context((1, 64, 6, 6), max_drop=1.0), cpu="x64")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    integers = held["y.weight"]
    free, guilty = np.abs(integers.astype(int)).max((1, 2, 3))
    assert free == 127
    assert 64 <= guilty < 127


def test_nan_is_named_and_left_in_float(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w1, float[8,8,1,1] w2> {
       c = Conv(x, w1)
       l = Log(c)
       y = Conv(l, w2)
    }"""
    )
    ctx = context((1, 8, 6, 6), max_drop=2.0)
    _, after, _ = quantized(model(text), ctx)
    floats = ctx.evidence["static"]["nodes"]
    assert floats["y"] == "float: tensor 'l' holds NaN on sample 0"
    assert ops(after)["Conv"] == 2


def test_a_bias_that_int32_cannot_hold_widens_the_scale(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w, float[8] b> {
       y = Conv(x, w, b)
    }"""
    )
    built = model(text)
    node = built.graph.nodes[0]
    node.inputs[1].values = node.inputs[1].values * np.float32(1e-9)
    ctx = context((1, 8, 6, 6), max_drop=1.0)
    before, after, edits = quantized(built, ctx)
    assert edits == 1
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.01


def test_a_quantized_model_is_left(quantized, model, context):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    _, after, _ = quantized(model(RESIDUAL), ctx)
    again = Model.from_exported(after)
    assert Quant().run(again, ctx) == 0
    assert "quantized already" in ctx.notes[-1]


def test_what_another_tool_left_in_float_is_stored_in_integers(model, context):
    text = (
        HEAD
        + """g (float[N,64] x) => (float[N,64] y)
    <float[64,64] w, int8[64,64] v, float s = {0.01}> {
       a = MatMul(x, w)
       r = Relu(a)
       d = DequantizeLinear(v, s)
       y = MatMul(r, d)
    }"""
    )
    ctx = context((2, 64), max_drop=1.0)
    built = model(text)
    before = built.export()
    assert Quant().run(built, ctx) == 1
    after = built.export()
    onnx.checker.check_model(after.whole(), full_check=True)
    held = {t.name: t for t in after.whole().graph.initializer}
    assert held["w_q"].data_type == onnx.TensorProto.INT8
    assert held["v"] == next(t for t in before.whole().graph.initializer if t.name == "v")
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.02
    assert "1 weights that were in float are stored" in ctx.notes[-1]
    assert Quant().run(Model.from_exported(after), ctx) == 0


def test_a_dropped_edit_leaves_its_unit_in_float(quantized, model, context):
    from dataclasses import replace

    ctx = replace(context((1, 8, 12, 12), max_drop=1.0), allow=lambda edit: edit != "static@c2")
    _, after, edits = quantized(model(RESIDUAL), ctx)
    assert edits == 2
    held = {t.name for t in after.proto.graph.initializer}
    assert "c1.weight" in held
    assert "c2.weight" not in held
    assert "w2" in held


def test_two_runs_give_the_same_bytes(quantized, model, context):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    runs = [quantized(model(RESIDUAL), ctx, timed=True)[1].whole() for _ in range(2)]
    texts = [m.SerializeToString(deterministic=True) for m in runs]
    assert texts[0] == texts[1]


def test_old_opsets_are_raised(quantized, model, context):
    text = RESIDUAL.replace('"" : 17', '"" : 11')
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = quantized(model(text), ctx)
    assert edits == 3
    assert [o.version for o in after.proto.opset_import if not o.domain] == [13]
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.05


@pytest.mark.parametrize(("factor", "joined"), [(1.0, True), (1000.0, False)])
def test_small_inputs_do_not_share_a_scale_with_large_ones(
    quantized, model, context, factor, joined
):
    built = model(
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,16,12,12] y)
<float[8,8,1,1] w1, float[8,8,1,1] w2> {
   a = Conv(x, w1)
   b = Conv(x, w2)
   y = Concat<axis = 1>(a, b)
}"""
    )
    weight = built.graph.nodes[0].inputs[1]
    weight.values = weight.values * np.float32(factor)
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    _, after, edits = quantized(built, ctx)
    assert edits == (3 if joined else 2)
    nodes = {n.op_type: n for n in after.proto.graph.node}
    assert (nodes["Concat"].output[0] == "y") != joined

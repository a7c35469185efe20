"""Static quantization: what is placed, what onnxruntime makes of it, and the traps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxopt import deployed, match, shapes
from onnxopt.model import Model
from onnxopt.parity import compare
from onnxopt.runtime import Session, Settings
from onnxopt_passes.quant import Quant, converter, gating, scheme, trial
from onnxopt_passes.quant.plan import Plan
from onnxopt_passes.quant.scheme import GRIDS

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

RESIDUAL = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w1, float[8,8,3,3] w2, float[8] b1, float[8] b2> {
   c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
   r1 = Relu(c1)
   c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
   a = Add(c2, r1)
   y = Relu(a)
}"""
)

SILU = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y) <float[8,8,3,3] w1, float[8,8,1,1] w2> {
   c = Conv<pads=[1,1,1,1]>(x, w1)
   s = Sigmoid(c)
   m = Mul(c, s)
   y = Conv(m, w2)
}"""
)


def _quantized(model, context, **options):
    options = {"mode": "static", "timed": False, "cpu": "x64-vnni", **options}
    before = model.export()
    edits = Quant(**options).run(model, context)
    after = model.export()
    onnx.checker.check_model(after.whole(), full_check=True)
    return before, after, edits


def _ops(exported):
    return Counter(n.op_type for n in exported.proto.graph.node)


def _deployed(exported):
    return Counter(n.op_type for n in deployed.rewritten(exported, Settings()).graph.node)


def _noise(before, after, feed, optimize=False):
    want = Session(before).run(feed)
    got = Session(after, Settings(optimize)).run(feed)
    return max(d.drift for d in compare(want, got).values())


@pytest.mark.parametrize(("text", "count"), [(RESIDUAL, 3), (SILU, 4)])
def test_branches_meet_in_integers(model, context, text, count):
    # onnxruntime's own default leaves every convolution around a branch in float
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = _quantized(model(text), ctx)
    assert edits == count
    ops = _deployed(after)
    integer = sum(n for op, n in ops.items() if op.startswith("QLinear"))
    assert integer == count
    assert not {"Conv", "Add", "Mul"} & set(ops)
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1
    feed = next(iter(ctx.calibration)).feed
    assert _noise(before, after, feed) < 0.05


def test_weights_are_symmetric_int8_a_channel_and_activations_uint8(model, context):
    _, after, _ = _quantized(model(RESIDUAL), context((1, 8, 12, 12), max_drop=1.0))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    weights = [v for n, v in held.items() if n.endswith(".weight")]
    assert [w.dtype for w in weights] == [np.int8] * 2
    assert all(np.abs(w.astype(int)).max((1, 2, 3)).tolist() == [127] * 8 for w in weights)
    biases = [v for n, v in held.items() if n.endswith(".bias")]
    assert [b.dtype for b in biases] == [np.int32] * 2
    assert not any(v.dtype == np.float32 and v.size > 64 for v in held.values())


def test_activations_go_where_saturation_says_the_same(model, context):
    _, after, _ = _quantized(model(RESIDUAL), context((1, 8, 12, 12), max_drop=1.0))
    assert _ops(after)["Relu"] == 0


def test_an_op_without_integer_kernel_gets_no_q_and_dq(model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
    <float[8,8,3,3] w, float[12] s, float[12] b> {
       c = Conv<pads=[1,1,1,1]>(x, w)
       h = Elu(c)
       y = LayerNormalization(h, s, b)
    }"""
    )
    _, after, _ = _quantized(model(text), context((1, 8, 12, 12), max_drop=1.0))
    assert _ops(after)["QuantizeLinear"] == 2
    assert _deployed(after)["QLinearConv"] == 1


GATES = {
    "HardSwish": ("m = HardSwish(c)", 3, {"QLinearAdd": 1, "QLinearMul": 1}),
    "x HardSigmoid(x)": (
        "h = HardSigmoid<alpha=0.16666667, beta=0.5>(c)\nm = Mul(c, h)",
        4,
        {"QLinearAdd": 1, "QLinearMul": 1},
    ),
    "HardSigmoid": ("m = HardSigmoid(c)", 3, {"QLinearAdd": 1}),
    "negative shift": ("m = HardSigmoid<alpha=0.5, beta=-0.25>(c)", 3, {"QLinearAdd": 1}),
}


def _gated(lines):
    return (
        HEAD
        + f"""g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w1, float[8,8,1,1] w2> {{
    c = Conv<pads=[1,1,1,1]>(x, w1)
    {lines}
    y = Conv(m, w2)
}}"""
    )


@pytest.mark.parametrize(("lines", "count", "gate"), GATES.values(), ids=GATES)
def test_hard_gates_are_sums_that_saturate(model, context, lines, count, gate):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = _quantized(model(_gated(lines)), ctx)
    assert edits == count
    assert not {"HardSigmoid", "HardSwish"} & set(_ops(after))
    assert _noise(before, after, next(iter(ctx.calibration)).feed) < 0.05
    ops = _deployed(after)
    assert {op: n for op, n in ops.items() if op in ("QLinearAdd", "QLinearMul")} == gate
    assert ops["QLinearConv"] == 2
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1


@pytest.mark.parametrize("grid", ["uint8", "int8"])
def test_the_ends_of_a_gate_are_the_ends_of_its_grid(grid):
    node = gs.Node("HardSigmoid", attrs={"alpha": 0.5, "beta": -0.25})
    summed, read = gating.schemes(node, GRIDS[grid])
    x = np.array([-9.0, 0.5, 1.0, 2.5, 9.0], np.float32)
    held, steps = gating.shift(node, GRIDS[grid])
    integers = scheme.quantize(x + scheme.dequantize(held, steps), summed)
    assert integers[[0, -1]].tolist() == [GRIDS[grid].lowest, GRIDS[grid].highest]
    wanted = np.clip(0.5 * x - 0.25, 0, 1)
    assert scheme.dequantize(integers, read) == pytest.approx(wanted, abs=0.5 / 255 + 1e-6)


def test_a_gate_that_falls_stays_in_float(model, context):
    text = _gated("m = HardSigmoid<alpha=-0.2, beta=0.5>(c)")
    _, after, edits = _quantized(model(text), context((1, 8, 12, 12), max_drop=1.0))
    assert edits == 2
    assert _ops(after)["HardSigmoid"] == 1


def test_a_gate_is_as_exact_as_its_integers(model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y) <float[8,8,1,1] w> {
    c = Conv(x, w)
    y = HardSigmoid<alpha=0.16666667, beta=0.5>(c)
}"""
    )
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, _ = _quantized(model(text), ctx, method="minmax", recover="none")
    feed = next(iter(ctx.calibration)).feed
    want, got = (Session(m).run(feed)["y"] for m in (before, after))
    held = Session(before).run(feed)["y"]
    assert got.min() >= 0
    assert got.max() == pytest.approx(1.0)
    steps = 2 / 255 + np.ptp(held) / 12
    assert np.abs(want - got).max() < steps


def test_elements_move_in_integers(model, context):
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
    before, after, edits = _quantized(model(text), ctx)
    assert edits == 5
    assert _ops(after)["QuantizeLinear"] == 3
    assert _noise(before, after, next(iter(ctx.calibration)).feed) < 0.05


def test_written_and_deployed_say_the_same_without_vnni(model, context):
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
    before, after, _ = _quantized(built, ctx, cpu="x64")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    assert max(np.abs(v.astype(int)).max() for v in held.values() if v.dtype == np.int8) < 127
    feed = next(iter(ctx.calibration)).feed
    assert _noise(before, after, feed, optimize=True) < 0.03


def test_only_guilty_channels_are_narrowed(model, context):
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
    _, after, _ = _quantized(built, context((1, 64, 6, 6), max_drop=1.0), cpu="x64")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in after.whole().graph.initializer}
    integers = held["y.weight"]
    free, guilty = np.abs(integers.astype(int)).max((1, 2, 3))
    assert free == 127
    assert 64 <= guilty < 127


def test_nan_is_named_and_left_in_float(model, context):
    text = (
        HEAD
        + """g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w1, float[8,8,1,1] w2> {
       c = Conv(x, w1)
       l = Log(c)
       y = Conv(l, w2)
    }"""
    )
    ctx = context((1, 8, 6, 6), max_drop=2.0)
    _, after, _ = _quantized(model(text), ctx)
    floats = ctx.evidence["static"]["nodes"]
    assert floats["y"] == "float: tensor 'l' holds NaN on sample 0"
    assert _ops(after)["Conv"] == 2


def test_a_bias_that_int32_cannot_hold_widens_the_scale(model, context):
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
    before, after, edits = _quantized(built, ctx)
    assert edits == 1
    assert _noise(before, after, next(iter(ctx.calibration)).feed) < 0.01


def test_a_quantized_model_is_left(model, context):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    _, after, _ = _quantized(model(RESIDUAL), ctx)
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
    assert _noise(before, after, next(iter(ctx.calibration)).feed) < 0.02
    assert "1 weights that were in float are stored" in ctx.notes[-1]
    assert Quant().run(Model.from_exported(after), ctx) == 0


def test_a_dropped_edit_leaves_its_unit_in_float(model, context):
    from dataclasses import replace

    ctx = replace(context((1, 8, 12, 12), max_drop=1.0), allow=lambda edit: edit != "static@c2")
    _, after, edits = _quantized(model(RESIDUAL), ctx)
    assert edits == 2
    held = {t.name for t in after.proto.graph.initializer}
    assert "c1.weight" in held
    assert "c2.weight" not in held
    assert "w2" in held


def test_two_runs_give_the_same_bytes(model, context):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    runs = [_quantized(model(RESIDUAL), ctx, timed=True)[1].whole() for _ in range(2)]
    texts = [m.SerializeToString(deterministic=True) for m in runs]
    assert texts[0] == texts[1]


def test_old_opsets_are_raised(model, context):
    text = RESIDUAL.replace('"" : 17', '"" : 11')
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = _quantized(model(text), ctx)
    assert edits == 3
    assert [o.version for o in after.proto.opset_import if not o.domain] == [13]
    assert _noise(before, after, next(iter(ctx.calibration)).feed) < 0.05


def test_units_go_back_to_float_until_the_metric_holds(model, context):
    ctx = context((1, 8, 12, 12), max_drop=0.0, metric="sqnr")
    _, after, edits = _quantized(model(RESIDUAL), ctx)
    assert edits == 0
    assert _ops(after)["QuantizeLinear"] == 0
    assert set(ctx.evidence["static"]["nodes"].values()) == {"float: it costs too much accuracy"}
    assert ctx.notes[0].startswith("mode weights: static was tried (it was asked for), and nothing")


def test_a_recipe_can_be_edited(model, context, tmp_path):
    import json

    path = tmp_path / "recipe.json"
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    _quantized(model(RESIDUAL), ctx, recipe=str(path))
    written = tmp_path / "recipe.json.static"
    held = json.loads(written.read_text())
    assert held["nodes"] == {"a": "integers", "c1": "integers", "c2": "integers"}
    held["nodes"]["c1"] = "float: by hand"
    written.write_text(json.dumps(held))
    _, after, edits = _quantized(model(RESIDUAL), ctx, recipe=str(path))
    assert edits == 2
    held = {t.name for t in after.proto.graph.initializer}
    assert "w1" in held
    assert "c2.weight" in held


@pytest.mark.parametrize(("factor", "joined"), [(1.0, True), (1000.0, False)])
def test_small_inputs_do_not_share_a_scale_with_large_ones(model, context, factor, joined):
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
    _, after, edits = _quantized(built, ctx)
    assert edits == (3 if joined else 2)
    nodes = {n.op_type: n for n in after.proto.graph.node}
    assert (nodes["Concat"].output[0] == "y") != joined


def test_what_loses_by_far_too_much_is_put_aside_before_the_rest_is_fitted(
    model, context, monkeypatch
):
    built = model(
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,1,1] w1, float[8,8,1,1] w2, float[8,8,3,3] w3> {
   a = Conv(x, w1)
   s = Sigmoid(a)
   m = Mul(a, s)
   b = Conv(m, w2)
   y = Conv<pads = [1,1,1,1]>(b, w3)
}"""
    )
    large, small = (built.graph.nodes[i].inputs[1] for i in (0, 3))
    factors = np.where(np.arange(8) == 0, 3000, 1).astype(np.float32)  # one channel drowns others
    large.values = large.values * factors[:, None, None, None]
    small.values = small.values / factors[None, :, None, None]
    seen = []
    recover = converter.Converter._recover

    def watched(self, able):
        seen.append((set(self.plan.chosen), set(able)))
        recover(self, able)

    monkeypatch.setattr(converter.Converter, "_recover", watched)
    monkeypatch.setattr(converter.sensitivity, "GROUPS", 5)
    _quantized(built, context((1, 8, 12, 12), max_drop=0.02))
    ((chosen, able),) = seen
    assert able == {"a", "s", "m", "b", "y"}
    assert "y" in chosen
    assert not {"a", "m"} <= chosen


def test_a_recipe_without_clipping_keeps_the_same_channels_narrow(model, context):
    built = model(RESIDUAL)
    shapes.infer(built)
    match.stamp(built.graph)
    ctx = context((1, 8, 12, 12))
    source = built.export()
    fit, check = trial.parts(ctx.calibration, source, 0)

    def made():
        held = trial.Trial(source, check, ctx)
        return converter.Converter(built, Quant(mode="static"), ctx, "x64", fit, held)

    first, second = made(), made()
    found = first.able()
    second.adopt(Plan("minmax", {u.name for u in found}))
    whole = first.known.recipes["minmax"]
    assert second.recipe.ranges == whole.ranges != first.known.recipes["auto"].ranges
    assert whole.narrow
    for name, most in whole.narrow.items():
        np.testing.assert_array_equal(second.recipe.narrow[name], most)

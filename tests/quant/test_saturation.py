"""Sums of pairs in int16: found as the kernels have them, and narrowed no more than needed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxopt import shapes
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings, run_once
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.quant import Quant, fours, saturation, scheme, static, units
from onnxopt_passes.quant.cpu import saturates
from onnxopt_passes.quant.saturation import Met
from onnxopt_passes.quant.static import Recipe
from onnxopt_passes.quant.trial import relative

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def _convolved(x, w, groups):
    """Return what onnxruntime makes of uint8 x and int8 w, divided by 256."""
    held = {
        "xs": np.float32(1),
        "xz": np.uint8(0),
        "w": w,
        "ws": np.ones(len(w), np.float32),
        "wz": np.zeros(len(w), np.int8),
        "ys": np.float32(256),
        "yz": np.uint8(0),
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"], group=groups)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(v, n) for n, v in held.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    return run_once(helper.make_model(graph, opset_imports=opset, ir_version=8), {"x": x})["y"]


def _conv(weight, groups=1):
    """Return a model of one Conv, and its unit."""
    weight = np.asarray(weight, np.float32)
    text = f"""{HEAD}g (float[N,{weight.shape[1] * groups},H,W] x) => (float[N,M,A,B] y)
    {{ y = Conv<group={groups}>(x, w) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model = Model.from_proto(proto)
    shapes.infer(model)
    (unit,) = units.find(model.graph)
    return model, unit


def _met(model, unit, arrays):
    """Return what a unit meets on samples whose values are integers up to 255."""
    samples = Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")
    recipe = Recipe({"x": (0.0, 255.0)})
    return saturation.met(model, [unit], recipe, samples, Settings()).get(unit.name)


@pytest.mark.skipif(not saturates(), reason="this CPU has kernels that do not saturate")
@pytest.mark.parametrize(
    ("channels", "kernel", "groups", "count"),
    [(4, 1, 1, 6), (5, 1, 1, 10), (4, 2, 1, 120), (3, 3, 1, 351), (3, 3, 1, 344), (3, 3, 2, 351)],
)
def test_pairs_are_those_that_onnxruntime_adds_in_int16(channels, kernel, groups, count):
    depth = channels * kernel**2
    pairs = [(p, q) for p in range(depth) for q in range(p + 1, depth)][:count]
    weight = np.zeros((len(pairs), channels, kernel, kernel), np.int8)
    for row, pair in zip(weight.reshape(len(pairs), -1), pairs, strict=True):
        row[list(pair)] = 127
    weight = np.concatenate([weight] * groups)
    x = np.full((1, channels * groups, kernel, kernel), 255, np.uint8)
    model, unit = _conv(weight, groups)
    more = fours.missing(unit.inputs[0])
    written = [fours.padded(v, 1, more) for v in (x, weight)]
    saturated = _convolved(*written, groups).reshape(-1) < 2 * 127 * 255 // 256 - 1
    found = saturation.overflows(unit, weight, _met(model, unit, [x.astype(np.float32)]))
    np.testing.assert_array_equal(found, saturated)
    assert 0 < saturated.sum() < len(saturated)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 3)])
def test_depthwise_kernels_do_not_saturate(kernel):
    weight = np.zeros((8, 1, *kernel), np.int8)
    weight[:, :, 0, :2] = 127
    x = np.full((1, 8, *kernel), 255, np.uint8)
    assert (_convolved(x, weight, 8) >= 2 * 127 * 255 // 256).all()
    model, unit = _conv(weight, 8)
    assert _met(model, unit, [x.astype(np.float32)]) is None


@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [(5, 1, 1), (4, 3, 1), (3, 2, 2), (3, 2, 1)]
)
def test_what_overflows_is_what_sums_of_all_rows_say(channels, kernel, groups, monkeypatch):
    monkeypatch.setattr(saturation, "MARGIN", 1.0)
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (40 * groups, channels, kernel, kernel))
    weight[::2] //= 2
    arrays = [
        rng.integers(0, 256, (1, channels * groups, 5, 5)).astype(np.float32) for _ in range(3)
    ]
    model, unit = _conv(weight, groups)
    found = saturation.overflows(unit, weight, _met(model, unit, arrays))
    want, more = [], fours.missing(unit.inputs[0])
    for m, filters in enumerate(weight):
        first = m // 40 * channels
        flat = fours.padded(filters, 0, more).transpose(1, 2, 0).reshape(-1)
        worst = 0
        for x in arrays:
            for i, j in np.ndindex(6 - kernel, 6 - kernel):
                patch = x[0, first : first + channels, i : i + kernel, j : j + kernel]
                patch = fours.padded(patch, 0, more)
                products = patch.transpose(1, 2, 0).reshape(-1) * flat
                whole = np.append(products, 0)[: len(products) // 2 * 2 + 2]
                whole = whole[: len(whole) // 2 * 2]
                worst = max(worst, np.abs(whole[0::2] + whole[1::2]).max())
        want.append(worst > saturation.LIMIT)
    np.testing.assert_array_equal(found, want)
    assert 0 < sum(want) < len(want)


def test_channels_that_are_never_large_together_keep_all_of_int8():
    weight = np.ones((2, 2, 1, 1))
    weight[1] *= -1
    model, unit = _conv(weight)
    x = np.zeros((2, 2, 4, 4), np.float32)
    x[0, 0] = x[1, 1] = 255
    apart = _met(model, unit, [x])
    assert saturation.limits(unit, apart).tolist() == [127, 127]
    assert saturation.limits(unit, Met(apart.tops)).tolist() == [64, 64], "the bound alone"
    together = _met(model, unit, [np.full((1, 2, 4, 4), 255, np.float32)])
    assert saturation.limits(unit, together).tolist() == [64, 64]


def test_channels_are_narrowed_no_more_than_they_need():
    weight = np.ones((3, 2, 1, 1))
    weight[:, 1, 0, 0] = (1.0, 0.6, 0.2)
    model, unit = _conv(weight)
    met = _met(model, unit, [np.full((1, 2, 4, 4), 190, np.float32)])
    assert saturation.limits(unit, met).tolist() == [80, 96, 127]
    recipe = Recipe({}, narrow={unit.name: saturation.limits(unit, met)})
    incoming = scheme.affine(0.0, 255.0, scheme.GRIDS["uint8"])
    values = np.asarray(weight, np.float32)
    params = static.weight_params(unit, values, recipe, None, incoming)
    integers = scheme.quantize(values, params)
    assert np.abs(integers.astype(int)).max((1, 2, 3)).tolist() == [80, 96, 127]
    assert not saturation.overflows(unit, integers, met).any()


def test_a_file_for_any_cpu_says_the_same_here(model, context):
    text = (
        HEAD
        + """g (float[1,16,8,8] x) => (float[1,16,8,8] y)
    <float[16,16,1,1] w1, float[16,16,1,1] w2> {
       a = Conv(x, w1)
       r = Relu(a)
       y = Conv(r, w2)
    }"""
    )
    built = model(text)
    for node in built.graph.nodes:
        if node.op == "Conv":
            node.inputs[1].values = np.abs(node.inputs[1].values)
    ctx = context((1, 16, 8, 8), max_drop=1.0)
    before = built.export()
    Quant(mode="static", timed=False, cpu="x64", recover="none").run(built, ctx)
    after = built.export()
    for feed in ctx.calibration.feeds():
        written, deployed = (Session(after, Settings(o)).run(feed) for o in (False, True))
        want = Session(before).run(feed)
        assert relative(want, deployed) < 2 * relative(want, written) + 1e-5

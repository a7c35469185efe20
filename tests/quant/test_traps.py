"""What makes other tools' files slow, wrong or invalid on a CPU is not made here."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnxopt
from onnxopt import deployed
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.quant import Quant, holding
from onnxopt_passes.quant.trial import relative

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

NORMALIZED = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w1, float[8,8,3,3] w2, float[8] s, float[8] b, float[8] mean, float[8] var> {
   c = Conv<pads=[1,1,1,1]>(x, w1)
   n = BatchNormalization(c, s, b, mean, var)
   r = Relu(n)
   y = Conv<pads=[1,1,1,1]>(r, w2)
}"""
)

FREE = (
    HEAD
    + """g (float[N,4,H,W] x) => (float[N,8,H,W] y) <float[8,4,3,3] w1, float[8,8,3,3] w2> {
   c = Conv<pads=[1,1,1,1]>(x, w1)
   r = Relu(c)
   y = Conv<pads=[1,1,1,1]>(r, w2)
}"""
)


def _ops(exported):
    return Counter(n.op_type for n in exported.proto.graph.node)


def _deployed(exported):
    return Counter(n.op_type for n in deployed.rewritten(exported, Settings()).graph.node)


@pytest.mark.parametrize("cpu", ["x64", "x64-vnni", "generic", "arm64"])
def test_activations_are_what_the_cpu_is_fast_at(model, context, cpu):
    # int8 activations on x64: 1.1x; uint8: 3.6x
    built = model(FREE)
    Quant(mode="static", timed=False, cpu=cpu).run(built, context((1, 4, 9, 9), max_drop=2.0))
    zeros = {
        node.inputs[2].values.dtype for node in built.graph.nodes if node.op == "QuantizeLinear"
    }
    assert zeros == {np.dtype(np.int8 if cpu == "arm64" else np.uint8)}
    # operators of integers are made by onnxruntime from Q and DQ; written out they are slower
    assert not [n.op for n in built.graph.nodes if n.op.startswith(("QLinear", "ConvInteger"))]


@pytest.mark.parametrize(
    "node",
    [
        "<float[8,4,3,3] w> { y = Conv(x, w) }",
        "<float[99,36] w> { f = Flatten<axis=1>(x) y = Gemm<transB=1>(f, w) }",
    ],
)
def test_weights_of_conv_and_gemm_do_not_decode_at_each_run(model, node):
    # a DequantizeLinear there: 0.72x of the speed; Cast and Mul are folded at load
    built = model(
        f"{HEAD}g (float[1,4,3,3] x) => (float y) {node}".replace("float y", "float[A] y")
    )
    assert Quant(mode="weights").run(built, onnxopt.Context()) == 1
    assert not {"DequantizeLinear", "Cast", "Mul"} & set(_deployed(built.export()))


def test_normalizations_are_folded_before(tmp_path):
    # else each is an island of floats between Q and DQ
    from onnxopt.testing import fill

    proto = fill(onnx.parser.parse_model(NORMALIZED))
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", x=rng.normal(0, 1, (30, 8, 12, 12)).astype(np.float32))
    text = "quant:mode=static:timed=false"
    found = onnxopt.optimize(proto, text, tmp_path / "c.npz", timing=False, max_drop=0.5)
    assert [step.spec.partition(":")[0] for step in found.steps][:2] == ["clean", "fuse"]
    ops = _deployed(Model.from_proto(found.model).export())
    assert ops["QLinearConv"] == 2
    assert not {"BatchNormalization", "Conv"} & set(ops)
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1


def test_what_is_not_faster_as_a_whole_stays_in_float(model, context, monkeypatch):
    monkeypatch.setattr(holding, "faster", lambda *_: (False, "1 ms in float, 2 ms in integers"))
    built = model(FREE)
    ctx = context((1, 4, 9, 9), max_drop=1.0)
    monkeypatch.setattr("onnxopt_passes.quant.converter.Converter._time", lambda _: None)
    Quant(mode="static").run(built, ctx)
    assert "QuantizeLinear" not in _ops(built.export())
    assert any("nothing pays in integers" in note for note in ctx.notes)


@pytest.mark.parametrize("method", ["auto", "minmax", "average", "percentile", "mse", "entropy"])
def test_every_method_takes_any_shapes(model, method):
    # histograms of stacked samples crash where shapes or batches differ
    rng = np.random.default_rng(0)
    shapes = [(1, 4, 9, 9), (3, 4, 6, 11), (2, 4, 20, 5)] * 4
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    samples = Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")
    built = model(FREE)
    before = built.export()
    ctx = onnxopt.Context(calibration=samples, max_drop=1.0)
    edits = Quant(mode="static", timed=False, method=method, cpu="generic").run(built, ctx)
    assert edits == 2
    noise = [
        relative(*(Session(m, Settings(True)).run({"x": a}) for m in (before, built.export())))
        for a in arrays[:3]
    ]
    assert max(noise) < 0.05


@pytest.mark.parametrize("mode", ["auto", "static", "dynamic", "weights"])
def test_a_model_in_float16_stays_one_that_loads(model, mode):
    # QuantizeLinear takes float16 from opset 19 on only
    text = (
        HEAD
        + """g (float16[N,64] x) => (float16[N,64] y) <float[64,64] w> {
       h = Cast<to=10>(w)
       y = MatMul(x, h)
    }"""
    )
    built = model(text)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 64)).astype(np.float16) for _ in range(12)]
    samples = Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")
    before = built.export()
    Quant(mode=mode, timed=False).run(built, onnxopt.Context(calibration=samples, max_drop=1.0))
    after = built.export()
    onnx.checker.check_model(after.whole(), full_check=True)
    want, got = (Session(m).run({"x": arrays[0]}) for m in (before, after))
    assert got["y"].dtype == np.float16
    assert relative(want, got) < 1e-3

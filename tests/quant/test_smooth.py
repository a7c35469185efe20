"""Smoothing by a Mul: the same floats, less noise, and only where it is worth an op."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.testing import fill
from onnxopt_passes.quant import Quant, dynamic_search, equalize, large, smooth
from onnxopt_passes.quant.trial import relative

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

AFTER = (
    HEAD
    + """g (float[N,5,32] x) => (float[N,5,32] y)
<float[32] s, float[32] b, float[32,64] w1, float[32,64] w2, float[64,32] w3> {
   n = LayerNormalization(x, s, b)
   a = MatMul(n, w1)
   c = MatMul(n, w2)
   e = Tanh(c)
   p = Mul(a, e)
   m = MatMul(p, w3)
   y = Add(m, n)
}"""
)
"""A block whose sum reads what its products read: no factor can go into the normalisation."""

SIZES = np.where(np.arange(32) % 16 == 3, 64.0, 1.0)
"""Two channels of 32 are large, as in BERT."""


def _uneven(text=AFTER, sizes=SIZES):
    """Return a model whose normalisation makes channels of very different size."""
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name in ("s", "b"):
                tensor.values = (np.abs(tensor.values) * sizes).astype(np.float32)
    return Model.from_proto(model.to_proto())


def _samples(count=24):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(1, 5, 32)).astype(np.float32) for _ in range(count)]
    return Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")


def _quantized(recover="auto", text=AFTER, **options):
    model = _uneven(text)
    before = model.export()
    ctx = Context(calibration=_samples(), max_drop=1.0)
    Quant(mode="dynamic", timed=False, cpu="generic", recover=recover, **options).run(model, ctx)
    return before, model.export(), ctx


def _noise(before, after):
    both = [Session(m, Settings(True)) for m in (before, after)]
    return np.mean([relative(*(s.run(f) for s in both)) for f in _samples().feeds()])


def _ops(exported):
    return [n.op_type for n in exported.proto.graph.node]


def test_floats_stay_what_they_are():
    model = _uneven()
    factors = smooth.measure(model, _samples(), Settings())
    assert "n" in factors
    before = model.export()
    smooth.apply(model, factors, {"a", "c", "m"})
    after = model.export()
    assert _ops(after).count("Mul") == _ops(before).count("Mul") + len(factors)
    for feed in _samples().feeds():
        want, got = (Session(m).run(feed) for m in (before, after))
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-4)


def test_a_sum_that_reads_the_tensor_is_no_hindrance():
    assert "n" not in equalize.find(_uneven())
    noise = {}
    for recover in ("none", "auto"):
        before, after, ctx = _quantized(recover)
        noise[recover] = _noise(before, after)
    assert "n" in ctx.evidence["dynamic"]["recovered"][smooth.STEP]
    assert noise["auto"] < 0.3 * noise["none"]
    # products that read one tensor share its Mul and its quantization
    assert _ops(after).count("DynamicQuantizeLinear") == 2


def test_its_factors_are_not_listed_as_weights_left_in_float():
    _, after, _ = _quantized()
    model = Model.from_exported(after)
    assert "n.smoothing" in model.graph.tensors()
    listed = {tensor.name for _, tensor, _, _ in large.constants(model, 16)}
    assert {"s", "b"} <= listed
    assert "n.smoothing" not in listed


def test_large_channels_are_made_smaller():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(32, 48))
    s = smooth.factors(SIZES, rows)
    assert (SIZES / s).max() / (SIZES / s).min() < SIZES.max() / SIZES.min() / 4
    assert s.dtype == np.float32
    assert (s[SIZES > 1] > s[SIZES == 1].max()).all()


@pytest.mark.parametrize(
    "largest",
    [
        np.ones(32),
        np.linspace(1, 1.5, 32),
        np.zeros(32),
        np.where(np.arange(32) == 3, np.nan, SIZES),
        np.where(np.arange(32) == 3, np.inf, SIZES),
    ],
)
def test_nothing_is_put_where_nothing_is_won(largest):
    assert smooth.factors(largest, np.random.default_rng(0).normal(size=(32, 48))) is None


def test_channels_that_are_never_seen_keep_their_size():
    largest = np.where(np.arange(32) == 5, 0, SIZES)
    s = smooth.factors(largest, np.random.default_rng(0).normal(size=(32, 48)))
    assert s[5] == 1
    assert np.isfinite(s).all()


def test_weights_that_others_read_are_left():
    text = AFTER.replace("c = MatMul(n, w2)", "c = MatMul(n, w1)")
    text = text.replace(", float[32,64] w2", "")
    assert set(smooth.find(_uneven(text))) == {"p"}


def test_what_makes_noise_worse_is_refused(monkeypatch):
    wrong = {n: 1 / s**2 for n, s in smooth.measure(_uneven(), _samples(), Settings()).items()}
    monkeypatch.setattr(dynamic_search.smooth, "measure", lambda *_: wrong)
    _, after, ctx = _quantized()
    found = ctx.evidence["dynamic recovery"][smooth.STEP]
    assert found["kept"] == []
    assert found["noise_after"] == found["noise_before"]
    assert not any(n.name.endswith(".smoothed") for n in after.proto.graph.node)


def test_no_mul_where_all_products_stay_in_float(tmp_path):
    recipe = tmp_path / "recipe"
    _quantized(recipe=str(recipe))
    held = recipe.with_name("recipe.dynamic")
    text = held.read_text("utf-8")
    assert '"a": "integers"' in text
    held.write_text(
        text.replace('"a": "integers"', '"a": "float: me"').replace(
            '"c": "integers"', '"c": "float: me"'
        )
    )
    before, after, _ = _quantized(recipe=str(recipe))
    assert not any(n.name == "n.smoothed" for n in after.proto.graph.node)
    assert _ops(after).count("MatMulInteger") == 1
    assert _noise(before, after) < 1e-2


def test_a_recipe_for_other_samples_smooths_what_is_worth_it(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe"
    _quantized(recipe=str(recipe))
    assert '"n"' in recipe.with_name("recipe.dynamic").read_text("utf-8")
    monkeypatch.setattr(dynamic_search.smooth, "measure", lambda *_: {})
    _, after, _ = _quantized(recipe=str(recipe))
    assert not any(n.name.endswith(".smoothed") for n in after.proto.graph.node)
    assert _ops(after).count("MatMulInteger") == 3


def test_a_remembered_plan_smooths_again():
    made = [_quantized()[1].whole().SerializeToString(deterministic=True) for _ in range(2)]
    assert made[0] == made[1]

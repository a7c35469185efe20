"""Which units a plan has, and what of it a recipe keeps."""

from __future__ import annotations

import numpy as np
import pytest
from integers import HEAD, RESIDUAL, ops

from onnxopt import match, shapes
from onnxopt_passes.quant import Quant, converter, modes, trial
from onnxopt_passes.quant.plan import Plan


def test_units_go_back_to_float_until_the_metric_holds(quantized, model, context):
    ctx = context((1, 8, 12, 12), max_drop=0.0, metric="sqnr")
    _, after, edits = quantized(model(RESIDUAL), ctx)
    assert edits == 0
    assert ops(after)["QuantizeLinear"] == 0
    assert set(ctx.evidence["static"]["nodes"].values()) == {"float: it costs too much accuracy"}
    assert ctx.notes[0].startswith("mode weights: static was tried (it was asked for), and nothing")


@pytest.mark.parametrize(
    ("asked", "said"), [("auto", True), ("x64-vnni", False), ("generic", False)]
)
def test_a_file_for_this_cpu_alone_is_told_of(quantized, model, context, monkeypatch, asked, said):
    monkeypatch.setattr(modes.cpu, "detect", lambda: "x64-vnni")
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    quantized(model(RESIDUAL), ctx, cpu=asked)
    assert (modes.FULL_RANGE in ctx.notes) is said


def test_a_recipe_can_be_edited(quantized, model, context, tmp_path):
    import json

    path = tmp_path / "recipe.json"
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    quantized(model(RESIDUAL), ctx, recipe=str(path))
    written = tmp_path / "recipe.json.static"
    held = json.loads(written.read_text())
    assert held["nodes"] == {"a": "integers", "c1": "integers", "c2": "integers"}
    held["nodes"]["c1"] = "float: by hand"
    written.write_text(json.dumps(held))
    _, after, edits = quantized(model(RESIDUAL), ctx, recipe=str(path))
    assert edits == 2
    held = {t.name for t in after.proto.graph.initializer}
    assert "w1" in held
    assert "c2.weight" in held


def test_what_loses_by_far_too_much_is_put_aside_before_the_rest_is_fitted(
    quantized, model, context, monkeypatch
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
    quantized(built, context((1, 8, 12, 12), max_drop=0.02))
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

"""Accuracy that is won back, on real models; each step is refused where it does not help."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import api, spec
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import open_samples
from onnxopt_passes.quant import Quant, finer, layer_fit, recovery, weight_fit
from onnxopt_passes.quant.trial import Found, Trial, relative

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def prepared():
    """Return a function: name -> (clean and fused model, calibration, unseen feeds)."""
    known = {}

    def make(name):
        if name not in known:
            source = MODELS / f"{name}.onnx"
            done = api.optimize(source, "clean,fuse", timing=False)
            exported = Model.from_proto(done.model).export()
            calibration = open_samples(str(MODELS / f"{name}.calib.npz"), exported.inputs)
            test = open_samples(str(MODELS / f"{name}.test.npz"), exported.inputs)
            known[name] = exported, calibration, list(islice(test.feeds(), 40))
        return known[name]

    return make


def _run(prepared, name, text, count=32, **context):
    """Return the context, the model, and its noise on samples that nobody has seen."""
    exported, calibration, feeds = prepared(name)
    model = Model.from_exported(exported)
    ctx = Context(calibration=calibration.take(count), max_drop=1.0, **context)
    (item,) = spec.parse(text)
    item.run(model, ctx)
    after = model.export()
    onnx.checker.check_model(after.whole(), full_check=True)
    pair = [Session(m, Settings(True)) for m in (exported, after)]
    noise = np.mean([relative(*(s.run(f) for s in pair)) for f in feeds])
    return ctx, after, float(noise)


@pytest.mark.parametrize("name", ["digits_resnet", "digits_dscnn", "digits_vit"])
def test_four_bits_keep_more_of_a_model(prepared, name):
    text = "quant:mode=weights:weights=int4"
    _, _, plain = _run(prepared, name, f"{text}:recover=none")
    ctx, _, recovered = _run(prepared, name, text)
    assert recovered < 0.75 * plain
    found = ctx.evidence["weights recovery"]["rounding"]
    assert found["kept"]
    assert found["noise_after"] < found["noise_before"]


@pytest.mark.parametrize("name", ["digits_resnet", "digits_dscnn"])
def test_static_quantization_wins_accuracy_back(prepared, name):
    text = "quant:mode=static:timed=false:cpu=generic"  # right on this machine, whatever it is
    _, _, plain = _run(prepared, name, f"{text}:recover=none", 64)
    ctx, _, recovered = _run(prepared, name, text, 64)
    assert recovered < plain
    found = ctx.evidence["static recovery"]
    assert any(step["kept"] for step in found.values())
    assert all(step["noise_after"] <= step["noise_before"] for step in found.values())


def test_recurrent_weights_are_rounded_by_what_gates_read(prepared):
    text = "quant:mode=weights:weights=int4"
    _, _, plain = _run(prepared, "digits_lstm", f"{text}:recover=none")
    ctx, _, recovered = _run(prepared, "digits_lstm", text)
    assert recovered < 0.75 * plain
    assert len(ctx.evidence["weights recovery"]["rounding"]["kept"]) >= 3


def test_dynamic_quantization_wins_accuracy_back(prepared):
    text = "quant:mode=dynamic:timed=false:cpu=generic"
    _, _, plain = _run(prepared, "digits_vit", f"{text}:recover=none")
    ctx, _, recovered = _run(prepared, "digits_vit", text)
    assert recovered < plain
    assert ctx.evidence["dynamic recovery"]["rounding"]["kept"]


class _Script(Trial):
    """A trial whose noise is told by the test."""

    def __init__(self, noise):
        self.noise = noise

    def judge(self, candidate, most=None):
        return Found(self.noise(candidate), 0.0)


def test_a_step_is_kept_only_where_it_helps():
    names = [f"n{i}" for i in range(8)]
    worth = dict.fromkeys(names, -1.0) | {"n5": 9.0}
    trial = _Script(lambda chosen: 10 + sum(worth[n] for n in chosen))
    kept = recovery.keep("step", names, lambda chosen: chosen, trial)
    assert kept.names == set(names) - {"n5"}
    assert (kept.before, kept.after, kept.tried) == (10.0, 3.0, 8)


def test_a_step_that_helps_nowhere_is_refused():
    trial = _Script(lambda chosen: 1.0 + len(chosen))
    kept = recovery.keep("step", ["a", "b", "c"], lambda chosen: chosen, trial)
    assert (kept.names, kept.before, kept.after) == (frozenset(), 1.0, 1.0)
    ctx = Context()
    kept.report(ctx, "static")
    assert ctx.evidence["static recovery"]["step"]["kept"] == []
    assert ctx.notes == ["static: step kept for 0 of 3 layers, held-out noise stays 1"]


def test_weights_that_are_exact_already_are_not_touched(prepared):
    exported, calibration, _ = prepared("digits_resnet")
    model = Model.from_exported(exported)
    for node in model.graph.nodes:
        if node.op in ("Conv", "Gemm"):
            weight = node.inputs[1]
            rows = weight.values.reshape(len(weight.values), -1)
            scale = np.abs(rows).max(1, keepdims=True) / 64
            rows = (np.rint(rows / scale) * scale).astype(np.float32)
            rows[:, :1] = 127 * scale
            weight.values = rows.reshape(weight.values.shape)
    before = model.export()
    ctx = Context(calibration=calibration.take(16), max_drop=1.0)
    Quant(mode="weights").run(model, ctx)
    feed = next(iter(calibration)).feed
    want, got = (Session(m).run(feed) for m in (before, model.export()))
    assert relative(want, got) < 1e-9


def test_what_costs_too_much_in_four_bits_is_stored_finer(prepared):
    exported, calibration, _ = prepared("digits_dscnn")
    model = Model.from_exported(exported)
    ctx = Context(calibration=calibration.take(64), max_drop=1e-4, metric="sqnr")
    Quant(mode="weights", weights="int4").run(model, ctx)
    bits = {t.name: t for t in model.export().whole().graph.initializer if t.name.endswith("_q")}
    kinds = {onnx.TensorProto.DataType.Name(t.data_type) for t in bits.values()}
    assert {"INT8", "INT16"} & kinds
    assert any("so that the metric holds" in note for note in ctx.notes)


def test_what_is_stored_finer_keeps_what_was_won(prepared, monkeypatch):
    """All weights go from 4 to 8 bits: they come out as if 8 had been asked for."""
    nothing = finer.Coarse(frozenset(), holds=True)
    monkeypatch.setattr(finer, "coarse", lambda *_: nothing)
    for part in ("CAUTION", "SHARE"):
        monkeypatch.setattr(weight_fit, part, -10.0)  # nothing holds
    text = "quant:mode=weights:weights={}"
    _, _, plain = _run(prepared, "digits_dscnn", text.format("int8") + ":recover=none")
    ctx, _, found = _run(prepared, "digits_dscnn", text.format("int4"))
    assert any("are stored in 8 bits" in note for note in ctx.notes)
    assert found < 0.7 * plain


def test_nothing_finer_is_fitted_where_the_metric_holds(prepared, monkeypatch):
    seen, refine = set(), layer_fit.refine.refine

    def watched(coded, *rest):
        seen.add(coded.grid.bits)
        return refine(coded, *rest)

    monkeypatch.setattr(layer_fit.refine, "refine", watched)
    _run(prepared, "digits_dscnn", "quant:mode=weights:weights=int4")
    assert seen == {4}


def test_a_preview_leaves_the_model_as_it_was(prepared):
    exported, _, _ = prepared("digits_resnet")
    model = Model.from_exported(exported)
    before = model.export().whole().SerializeToString(deterministic=True)
    from onnxopt_passes.quant import forms

    found = forms.plan(model, Quant(mode="weights", weights="int4"), Context())
    fitted = [weight_fit.Fitted(f, f.code()) for f in found.chosen]
    changed = weight_fit.preview(model, fitted).whole().SerializeToString(deterministic=True)
    assert changed != before
    assert model.export().whole().SerializeToString(deterministic=True) == before


def test_a_remembered_plan_gives_the_same_bytes(prepared):
    text = "quant:mode=static:timed=false:cpu=x64-vnni"
    runs = [_run(prepared, "digits_resnet", text) for _ in range(2)]
    texts = [r[1].whole().SerializeToString(deterministic=True) for r in runs]
    assert texts[0] == texts[1]
    assert any(runs[0][0].evidence["static"]["recovered"].values())


def test_nothing_is_fitted_to_synthetic_samples(prepared):
    exported, calibration, _ = prepared("digits_resnet")
    ctx = Context(calibration=replace_synthetic(calibration))
    model = Model.from_exported(exported)
    Quant(mode="weights").run(model, ctx)
    assert "weights recovery" not in ctx.evidence


def replace_synthetic(samples):
    from onnxopt.samples.base import Samples

    return Samples(samples._loaders, "drawn", synthetic=True)

"""A plan is remembered for the very same question only."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from onnxopt import metrics, runtime, verdicts
from onnxopt.base import Context
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.quant import Quant, modes

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8,6,6] x) => (float[1,4,6,6] y) <float[4,8,1,1] w> { y = Conv(x, w) }"""

COUNT = 40


def _samples(changed=None, label=0):
    def loaders():
        for i in range(COUNT):
            value = np.random.default_rng(i).normal(size=(1, 8, 6, 6)).astype(np.float32)
            value[0, 0, 0, 0] += float(i == changed)
            yield lambda value=value: Sample({"x": value}, np.asarray(label))

    return Samples(loaders, "here", length=COUNT, labelled=True)


@pytest.fixture
def key(model):
    def make(q=None, profile="x64", step="static", samples=None, **context):
        ctx = Context(calibration=samples or _samples(), max_drop=0.1, metric="sqnr")
        ctx = replace(ctx, **context)
        return modes.Search(model(TEXT), q or Quant(), ctx, step, profile, True).key

    return make


def test_the_same_question_has_the_same_key(key):
    assert key() == key()


@pytest.mark.parametrize(
    "changed",
    [
        {"q": Quant(method="mse")},
        {"q": Quant(recover="none")},
        {"q": Quant(granularity="tensor")},
        {"profile": "x64-vnni"},
        {"step": "dynamic"},
        {"max_drop": 0.2},
        {"metric": "cosine"},
        {"threads": 2},
        {"metric": None},
        {"target": "ort-cpu"},
        {"seed": 5},
        {"samples": _samples(label=1)},
    ],
)
def test_each_part_of_the_question_matters(key, changed):
    assert key(**changed) != key()


def test_every_sample_matters_those_that_plans_are_tried_on_too(key):
    before = key()
    assert all(key(samples=_samples(i)) != before for i in range(0, COUNT, 3))


def test_libraries_of_custom_operators_matter(key, monkeypatch):
    before = key()
    monkeypatch.setattr(ort.SessionOptions, "register_custom_ops_library", lambda *_: None)
    assert key() == before
    assert key(custom_ops=("libmine.so",)) != before


def test_the_code_of_a_metric_matters_not_only_its_name(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def asked(module, body):
        (tmp_path / f"{module}.py").write_text(f"def score(a, b, label):\n    return {body}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return key(metric=f"{module}:score")

    one = asked("mymetric", "1.0")
    assert asked("mymetric", "1.0") == one
    assert asked("mymetric", "0.25 + 0.25") != one
    assert asked("othermetric", "1.0") != one


def test_metrics_without_a_file_are_told_apart_by_their_code(monkeypatch):
    scope = {}
    exec("def one(a, b, c): return 1.0\ndef two(a, b, c): return 2.0", scope)
    module = types.ModuleType("made_here")
    monkeypatch.setitem(sys.modules, "made_here", module)
    module.score = scope["one"]
    before = metrics.fingerprint("made_here:score")
    assert metrics.fingerprint("made_here:score") == before
    module.score = scope["two"]
    assert metrics.fingerprint("made_here:score") != before


def test_versions_and_the_cpu_matter(monkeypatch):
    before = verdicts.key("a")
    assert verdicts.key("a") == before
    for name, value in (("version", lambda _: "0"), ("_flags", lambda: "avx9")):
        with monkeypatch.context() as patch:
            patch.setattr(verdicts, name, value)
            assert verdicts.key("a") != before
    monkeypatch.setattr(runtime, "version", lambda: "0")
    assert verdicts.key("a") != before

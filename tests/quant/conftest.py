"""Small models and samples for the pass quant; caches in a folder of the test."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.samples.base import Sample, Samples
from onnxopt.testing import fill
from onnxopt_passes.quant import Quant


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def context():
    def make(shape, count=24, name="x", scale=1.0, **rest):
        rng = np.random.default_rng(0)
        arrays = [rng.normal(0, scale, shape).astype(np.float32) for _ in range(count)]
        samples = Samples(lambda: ((lambda a=a: Sample({name: a})) for a in arrays), "here")
        return Context(calibration=samples, **rest)

    return make


@pytest.fixture
def model():
    def make(text):
        return Model.from_proto(fill(onnx.parser.parse_model(text)))

    return make


@pytest.fixture
def quantized():
    def make(model, context, **options):
        """Return a model before and after static quantization, and the edits."""
        options = {"mode": "static", "timed": False, "cpu": "x64-vnni", **options}
        before = model.export()
        edits = Quant(**options).run(model, context)
        after = model.export()
        onnx.checker.check_model(after.whole(), full_check=True)
        return before, after, edits

    return make

"""A plan is remembered for the very same question only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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
        {"seed": 5},
        {"samples": _samples(label=1)},
    ],
)
def test_each_part_of_the_question_matters(key, changed):
    assert key(**changed) != key()


def test_every_sample_matters_those_that_plans_are_tried_on_too(key):
    before = key()
    assert all(key(samples=_samples(i)) != before for i in range(0, COUNT, 3))

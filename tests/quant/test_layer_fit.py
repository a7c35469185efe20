"""Biases and integers fitted to what a layer reads: each is worth it, and kept only where it is."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import linear
from onnxopt.testing import fill
from onnxopt_passes.quant import coded, readings, scheme
from onnxopt_passes.quant.layer_fit import BIASES, ROUNDING, Item, LayerFit
from onnxopt_passes.quant.trial import Trial

INPUTS, OUTPUTS = 48, 12

TEXT = f"""<ir_version: 8, opset_import: ["" : 17]>
g (float[N,{INPUTS}] x) => (float[N,{OUTPUTS}] y)
<float[{OUTPUTS},{INPUTS}] w, float[{OUTPUTS}] b> {{ y = Gemm<transB=1>(x, w, b) }}"""


def _samples(mean=0.0, mix=None, seed=0, count=24):
    """Return samples of 30 rows; of rows that hang together by `mix` where it is given."""

    def loaders():
        for i in range(count):
            rng = np.random.default_rng((seed, i))
            rows = rng.normal(size=(30, INPUTS if mix is None else len(mix)))
            rows = mean + (rows if mix is None else rows @ mix)
            yield lambda rows=rows: Sample({"x": rows.astype(np.float32)})

    return Samples(loaders, "here", length=count)


class _Fit:
    """One layer in 4 bits, fitted to some samples and tried on others."""

    def __init__(self, fit, check):
        self.model = Model.from_proto(fill(onnx.parser.parse_model(TEXT)))
        (self.layer,) = linear.find_all(self.model.graph)
        self.source, self.bias = self.model.export(), self.layer.offsets()
        found = readings.read(self.model, [self.layer], fit, Settings())
        plain = coded.by_axis(self.layer.weight.values, scheme.GRIDS["int4"], True, 0)
        reading = found[id(self.layer.weight)]
        self.plain, self.fits = plain, LayerFit({"y": Item(reading, plain, True)})
        self.trial = Trial(self.source, check, Context(metric="sqnr"))

    def build(self, won):
        model = Model.from_exported(self.source)
        (layer,) = linear.find_all(model.graph)
        weight = won.refined.get("y", self.plain).values()
        layer.write(layer.arranged(weight), self.bias + won.biases.get("y", 0.0))
        return model.export()

    def search(self):
        ctx = Context()
        kept = self.fits.search("weights", self.build, ["y"], self.trial, ctx)
        return {step: set(names) for step, names in kept.items()}, ctx

    def errors(self, won, samples):
        """Return the mean error of each output over all rows."""
        sessions = [Session(m) for m in (self.build(won), self.source)]
        rows = [s1.run(f)["y"] - s2.run(f)["y"] for s1, s2 in [sessions] for f in samples.feeds()]
        return np.concatenate(rows).mean(0)


def test_a_corrected_bias_takes_the_mean_of_the_error():
    samples = _samples(mean=2.0)
    fit = _Fit(samples, samples)
    before = fit.errors(fit.fits.won({}), samples)
    after = fit.errors(fit.fits.won({BIASES: ["y"]}), samples)
    assert np.abs(before).max() > 0.1
    assert np.abs(after).max() < 1e-4


def test_a_bias_is_corrected_where_the_error_falls():
    kept, ctx = _Fit(_samples(mean=2.0), _samples(mean=2.0, seed=1)).search()
    assert kept[BIASES] == {"y"}
    found = ctx.evidence["weights recovery"][BIASES]
    assert found["noise_after"] < 0.7 * found["noise_before"]


def test_a_bias_stays_where_the_error_would_rise():
    kept, ctx = _Fit(_samples(mean=2.0), _samples(mean=-2.0, seed=1)).search()
    assert kept[BIASES] == set()
    found = ctx.evidence["weights recovery"][BIASES]
    assert found["noise_after"] == found["noise_before"]


@pytest.fixture
def mixes():
    """Return two ways in which inputs hang together, at right angles."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(INPUTS, INPUTS)))[0]
    return basis[: INPUTS // 4], basis[INPUTS // 4 :]


def test_integers_are_refined_where_the_error_falls(mixes):
    kept, ctx = _Fit(_samples(mix=mixes[0]), _samples(mix=mixes[0], seed=1)).search()
    assert kept[ROUNDING] == {"y"}
    found = ctx.evidence["weights recovery"][ROUNDING]
    assert found["noise_after"] < 0.5 * found["noise_before"]


def test_integers_stay_where_the_error_would_rise(mixes):
    kept, ctx = _Fit(_samples(mix=mixes[0]), _samples(mix=mixes[1], seed=1)).search()
    assert kept[ROUNDING] == set()
    found = ctx.evidence["weights recovery"][ROUNDING]
    assert found["noise_after"] == found["noise_before"]

"""Scales by the weight alone: less is lost, and bodies of If and Loop profit."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.base import Context
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.quant import Quant, coded, scales, scheme
from onnxopt_passes.quant.trial import relative

BRANCH = """<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[3,96] x) => (float[3,80] y) <float[96,80] v, float[96,80] w>
{
  y = If(c) <
    then_branch = t () => (float[3,80] a) { a = MatMul(x, v) },
    else_branch = e () => (float[3,80] b) { b = MatMul(x, w) }
  >
}"""

GRID = scheme.GRIDS["int4"]


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_t(3, size=(40, 96)).astype(np.float32)


@pytest.mark.parametrize("form", ["tensor", "channel", "blocks"])
def test_no_scale_loses_more_than_before(values, form):
    plain = {
        "tensor": lambda: coded.by_axis(values, GRID, True, None),
        "channel": lambda: coded.by_axis(values, GRID, True, 0),
        "blocks": lambda: coded.in_blocks(values, GRID, True, coded.along(values.shape, 32), 32),
    }[form]()
    found = scales.shrunk(values, plain)
    assert found.params.scale.shape == plain.params.scale.shape
    groups = {"tensor": (1, -1), "channel": (40, -1), "blocks": (40 * 3, -1)}[form]
    before, after = (
        np.square(values - c.values()).reshape(groups).sum(1, dtype=np.float64)
        for c in (plain, found)
    )
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.95 * before.sum()


def _samples(count=24):
    def loaders():
        for i in range(count):
            rng = np.random.default_rng(i)
            x = rng.normal(size=(3, 96)).astype(np.float32)
            yield lambda x=x, i=i: Sample({"x": x, "c": np.asarray(i % 2 == 0)})

    return Samples(loaders, "here", length=count)


def test_weights_of_bodies_lose_less(model):
    noise = {}
    for recover in ("none", "auto"):
        built = model(BRANCH)
        for path, graph in built.graphs():
            for node in graph.nodes:
                if node.op == "MatMul":
                    rng = np.random.default_rng(len(path))
                    drawn = rng.standard_t(3, size=(96, 80))
                    node.inputs[1].values = drawn.astype(np.float32)
        before = built.export()
        ctx = Context(calibration=_samples(), max_drop=1.0)
        assert Quant(mode="weights", weights="int4", recover=recover).run(built, ctx) == 2
        pair = [Session(m, Settings(True)) for m in (before, built.export())]
        noise[recover] = np.mean([relative(*(s.run(f) for s in pair)) for f in _samples().feeds()])
    assert noise["auto"] < 0.95 * noise["none"]
    kept = ctx.evidence["weights recovery"]["scales"]["kept"]
    assert kept == ["y.else_branch/w", "y.then_branch/v"]


def test_scales_that_do_not_help_are_refused(model, monkeypatch):
    def worse(values, plain):
        other = scheme.symmetric(4 * np.abs(values).max(), GRID)
        return coded.Coded(values.shape, other, scheme.quantize(values, other))

    monkeypatch.setattr(scales, "shrunk", worse)
    ctx = Context(calibration=_samples(), max_drop=1.0)
    Quant(mode="weights", weights="int4").run(model(BRANCH), ctx)
    found = ctx.evidence["weights recovery"]["scales"]
    assert found["kept"] == []
    assert found["noise_after"] == found["noise_before"]

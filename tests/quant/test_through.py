"""Ranges are chosen by the error behind what a tensor is read through."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt import match, shapes
from onnxopt.statistics import Histogram
from onnxopt_passes.quant import through, units

BODIES = {
    "silu": "s = Sigmoid(c)\n y = Mul(c, s)",
    "gate": "y = Sigmoid(c)",
    "hard": "y = HardSwish(c)",
    "two": "s = HardSigmoid<alpha = 0.25>(c)\n y = Mul(s, c)",
    "tanh": "y = Tanh(c)",
    "leaky": "y = LeakyRelu<alpha = 0.5>(c)",
    "square": "y = Mul(c, c)",
    "residual": "s = Sigmoid(c)\n m = Mul(c, s)\n y = Add(m, c)",
    "other": "s = Sigmoid(c)\n r = Relu(c)\n y = Mul(r, s)",
    "again": "s = Sigmoid(c)\n m = Mul(c, s)\n y = Add(m, s)",
    "sum": "s = Sigmoid(c)\n y = Add(c, s)",
}

X = np.linspace(-9, 9, 37)


def _of(model, body, outputs="float[1,2,4,4] y"):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,4,4] x) => ({outputs}) <float[2,2,1,1] w> {{ c = Conv(x, w)\n {body} }}"""
    built = model(text)
    match.stamp(built.graph)
    return through.function(built.graph.nodes[0].outputs[0])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("silu", X * _sigmoid(X)),
        ("gate", _sigmoid(X)),
        ("hard", X * np.clip(X / 6 + 0.5, 0, 1)),
        ("two", X * np.clip(X / 4 + 0.5, 0, 1)),
        ("tanh", np.tanh(X)),
        ("leaky", np.where(X < 0, X / 2, X)),
    ],
)
def test_what_all_readers_make_of_it(model, name, want):
    np.testing.assert_allclose(_of(model, BODIES[name])(X), want, atol=1e-12)


@pytest.mark.parametrize("name", ["square", "residual", "other", "again", "sum"])
def test_other_readers_see_it_as_it_is(model, name):
    assert _of(model, BODIES[name])(X) is X


@pytest.mark.parametrize("name", ["c", "s"])
def test_what_is_fetched_is_seen_as_it_is(model, name):
    outputs = f"float[1,2,4,4] y, float[1,2,4,4] {name}"
    assert _of(model, BODIES["silu"], outputs)(X) is X


def _histogram(values):
    held = Histogram()
    held.add(values, float(values.min()), float(values.max()))
    return held


def _error(values, span, function):
    step = (span[1] - span[0]) / 255
    start = np.rint(-span[0] / step)
    rounded = (np.clip(np.rint(values / step) + start, 0, 255) - start) * step
    return np.mean((function(rounded) - function(values)) ** 2)


@pytest.mark.parametrize("name", ["silu", "hard", "gate"])
def test_ranges_lose_less_behind_the_function(model, name):
    values = np.random.default_rng(0).normal(0, 4, 20_000)
    held, function = _histogram(values), _of(model, BODIES[name])
    plain, seen = held.span("auto"), held.span("auto", through=function)
    assert seen[0] > plain[0]  # what is far below zero is clipped
    assert _error(values, seen, function) < 0.8 * _error(values, plain, function)


def test_a_range_that_was_asked_for_is_taken_as_it_is(model):
    held = _histogram(np.linspace(-8, 8, 1000))
    assert held.span("minmax", through=_of(model, BODIES["silu"])) == (-8.0, 8.0)


def test_ranges_of_units_are_chosen_so(model):
    built = model(
        """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w> {
        c = Conv(x, w)
        y = HardSwish(c)
    }"""
    )
    shapes.infer(built)
    found = units.find(built.graph)
    held = _histogram(np.random.default_rng(0).normal(0, 4, 20_000))
    ranges = through.spans(found, {"x": held, "c": held}, "auto")
    assert -3.5 < ranges["c"][0] <= -2.9 < -8 + 6 < 0
    assert ranges["x"][0] < -8


def test_a_tensor_that_is_not_finite_has_no_range(model):
    built = model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2] x) => (float[1,2] y) { y = Sigmoid(x) }""")
    shapes.infer(built)
    found = units.find(built.graph)
    assert through.spans(found, {"x": Histogram(trouble="NaN")}, "auto") == {}

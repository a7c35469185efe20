"""Fits through activations that are flat."""

import numpy as np
import onnx.parser
import pytest

from onnxopt import Model, match
from onnxopt.statistics import Moments
from onnxopt.statistics.grams import merged
from onnxopt_passes.prune import clamped
from onnxopt_passes.prune.clamped import Clamp, Rows, after, refine, spacing
from onnxopt_passes.prune.least_squares import refit

RELU, RELU6 = Clamp(low=0.0), Clamp(0.0, 6.0)


def drawn(seed: int = 0, rows: int = 4000):
    """Targets of eight inputs, of which a layer is to make do with five."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, 8)) @ fixed.normal(0, 1, (8, 8))
    y = x @ fixed.normal(0, 1, (8, 4)) - 1
    rest = rng.normal(0, 1, (rows, 4))
    return [a[None].astype(np.float32) for a in (x[:, :5], y, rest)]


def fitted(x, y, rest, clamp, rows=True):
    """Return the least squares fit, and the refined one."""
    half = x.shape[1] // 2
    kept, parts = Rows(1), []
    for held, part in ((False, slice(half)), (True, slice(half, None))):
        sums = Moments(1, x.shape[2], y.shape[2])
        sums.add(x[:, part], y[:, part])
        parts.append(sums.statistics())
        if rows:
            kept.add(held, x[:, part], y[:, part], rest[:, part])
    prior = np.zeros((1, y.shape[2], x.shape[2]))
    found = refit(*parts, prior, np.zeros((1, y.shape[2])))
    return found, refine(found, merged(parts), prior, clamp, kept)


def error(fit, x, y, rest, clamp):
    p = x @ fit.matrix.transpose(0, 2, 1) + fit.offsets + rest
    return float(np.mean((np.clip(p, clamp.low, clamp.high) - clamp(y + rest)) ** 2))


@pytest.mark.parametrize("clamp", [RELU, RELU6], ids=["relu", "relu6"])
def test_what_is_seen_comes_nearer(clamp):
    plain, refined = fitted(*drawn(), clamp)
    fresh = drawn(seed=1)
    assert error(refined, *fresh, clamp) < 0.9 * error(plain, *fresh, clamp)


def test_where_nothing_is_flat_nothing_changes():
    plain, refined = fitted(*drawn(), Clamp(low=-1e6))
    np.testing.assert_allclose(refined.matrix, plain.matrix, rtol=1e-3, atol=1e-3)


def test_what_does_not_hold_is_refused(monkeypatch):
    monkeypatch.setattr(Clamp, "nearest", lambda self, y, p: -y)
    plain, refined = fitted(*drawn(), RELU)
    assert refined is plain


def test_without_rows_the_fit_stays():
    plain, refined = fitted(*drawn(), RELU, rows=False)
    assert refined is plain


def test_targets_look_as_the_model_does_and_are_near_the_prediction():
    rng = np.random.default_rng(0)
    y, p = (rng.normal(3, 5, 500).astype(np.float32) for _ in range(2))
    z = RELU6.nearest(y, p)
    np.testing.assert_array_equal(RELU6(z), RELU6(y))
    assert (np.abs(z - p) <= np.abs(y - p) + 1e-6).all()


@pytest.mark.parametrize(
    ("text", "clamp"),
    [
        ("y = Relu(h)", RELU),
        ("y = Clip(h, zero, six)", RELU6),
        ("y = Clip(h, zero)", Clamp(low=0.0)),
        ("y = Clip(h, zero, fed)", None),
        ("y = Clip(h, six, zero)", None),
        ("y = Clip(zero, h)", None),
        ("y = HardSwish(h)", Clamp(low=-3.0)),
        ("y = Sigmoid(h)", None),
        ("y = Relu(h) z = Tanh(h)", None),
    ],
)
def test_where_an_activation_is_flat(text, clamp):
    outputs = "float y, float z" if "z =" in text else "float y"
    model = Model.from_proto(
        onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float x, float fed) => ({outputs}) <float zero = {{0.0}}, float six = {{6.0}}>
        {{ h = Neg(x) {text} }}
        """)
    )
    match.stamp(model.graph)
    assert after(model.graph.nodes[0].outputs[0]) == clamp


def test_an_output_is_seen_whole():
    text = "g (float x) => (float h, float y) {h = Neg(x) y = Relu(h)}"
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    model = Model.from_proto(onnx.parser.parse_model(f"{header} {text}"))
    match.stamp(model.graph)
    assert after(model.graph.nodes[0].outputs[0]) is None


@pytest.mark.parametrize("count", [10, 16_384, 10**7])
def test_rows_are_bounded_and_drawn_from_all_samples(count, monkeypatch):
    monkeypatch.setattr(clamped, "ROWS", 100)
    kept = Rows(spacing(count, 8, 2))
    for sample in range(10):
        kept.add(sample % 4 == 3, np.full((1, count // 10, 4), sample, np.float32))
    rows = [part[0] for held in (False, True) for part in kept.taken(held)]
    assert sum(map(len, rows)) <= 100
    assert {int(v) for part in rows for v in part[:, 0]} == set(range(10))

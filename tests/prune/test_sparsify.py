"""Sparsify writes the zeros that it was asked for, and updates the other weights."""

import numpy as np
import onnx.parser
import pytest
from residual import residual, samples_of

from onnxopt import Context, Model, spec
from onnxopt.bisect import Gate
from onnxopt.errors import SamplesError, SpecError
from onnxopt.statistics import Linear, Tap, linear
from onnxopt.testing import fill
from onnxopt_passes.prune import mask, sparsify
from onnxopt_passes.prune.sparsify import Sparsify


def run(item: Sparsify, model: Model, n: int = 40, **given) -> tuple[Model, int, Context]:
    gate = Gate()
    samples = samples_of(n) if n else None
    ctx = Context(samples, allow=gate, retract=gate.retract, **given)
    after = model.clone()
    edits = item.run(after, ctx)
    assert len(gate.made) == edits
    return after.clone(), edits, ctx


def layers(model: Model) -> dict[str, Linear]:
    return {layer.name: layer for layer in linear.find_all(model.graph)}


def error(after: Model, before: Model) -> float:
    taps = [Tap(m, m.graph.outputs) for m in (after, before)]
    fresh = samples_of(20, seed=1)
    ours, theirs = (np.concatenate([v[0] for v in tap.over(fresh)]) for tap in taps)
    return float(((ours - theirs) ** 2).sum() / (theirs**2).sum())


@pytest.mark.parametrize("update", ["obs", "none"])
def test_a_share_of_the_weights(update):
    model = residual()
    after, edits, ctx = run(Sparsify(ratio=0.75, update=update, min_weights=64), model)
    assert edits == 2
    for name in ("c1", "c2"):
        values = layers(after)[name].weight.values
        assert np.mean(values == 0) == pytest.approx(0.75, abs=0.01)
        assert ctx.evidence["zeros"][name] == pytest.approx(0.75, abs=0.01)
    assert ctx.untouched == {"c0": "fewer than 64 weights", "y": "fewer than 64 weights"}
    assert any("no faster" in note for note in ctx.notes)


@pytest.mark.parametrize("update", ["obs", "none"])
def test_two_of_four_input_channels_stay(update):
    after, edits, ctx = run(Sparsify(pattern="2:4", update=update, min_weights=1), residual())
    assert edits == 3
    assert ctx.untouched == {"c0": "6 input channels are no multiple of 4"}
    for name in ("c1", "c2"):
        values = layers(after)[name].weight.values  # outputs, channels, taps
        fours = values.reshape(values.shape[0], -1, 4, 9)
        assert (np.count_nonzero(fours, axis=2) <= 2).all()
    assert (np.count_nonzero(layers(after)["y"].matrix()[0].reshape(4, 2, 4), axis=2) <= 2).all()


@pytest.mark.parametrize("options", [{"ratio": 0.6}, {"pattern": "2:4"}])
def test_updates_halve_the_error(options):
    model = residual()
    plain, _, _ = run(Sparsify(update="none", min_weights=64, **options), model)
    updated, _, _ = run(Sparsify(min_weights=64, **options), model)
    assert error(updated, model) < 0.5 * error(plain, model)


@pytest.mark.parametrize("options", [{"ratio": 0.3}, {"pattern": "1:4"}, {"update": "none"}])
def test_deterministic_and_idempotent(options):
    item, model = Sparsify(min_weights=64, **options), residual()
    once, edits, _ = run(item, model)
    again, _, _ = run(item, model)
    assert edits == 2
    assert once.export().proto == again.export().proto
    settled, more, _ = run(item, once)
    assert more == 0
    assert settled.export().proto == once.export().proto


def test_denied_and_excluded_layers_stay():
    model = residual()
    gate = Gate(denied=frozenset({"sparsify@c1"}))
    after = model.clone()
    ctx = Context(samples_of(8), allow=gate, retract=gate.retract)
    assert Sparsify(min_weights=64, exclude=("c2",)).run(after, ctx) == 0
    assert ctx.untouched["c2"] == "excluded"
    assert after.export().proto == model.export().proto


def test_a_layer_too_wide_is_cut_by_magnitude(monkeypatch):
    monkeypatch.setattr(sparsify, "LARGEST", 80)
    model = residual()
    after, _, ctx = run(Sparsify(min_weights=64), model)
    assert "c2: by magnitude: 108 columns are more than 80" in ctx.notes
    c2 = layers(model)["c2"].matrix()
    got = layers(after)["c2"].matrix()
    assert np.mean(got == 0) == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(got[got != 0], c2[got != 0])


def test_updates_need_samples():
    with pytest.raises(SamplesError, match="update=none"):
        run(Sparsify(min_weights=64), residual(), n=0)
    assert run(Sparsify(min_weights=64, update="none"), residual(), n=0)[1] == 2


def test_a_pattern_is_read_and_written():
    (item,) = spec.parse("sparsify:pattern=2:4:update=none")
    assert item == Sparsify(pattern="2:4", update="none")
    assert spec.render(item) == "sparsify:pattern=2:4:update=none"
    for wrong in ("ratio=1.5", "pattern=4:2", "pattern=half", "pattern=2:4:updat"):
        with pytest.raises(SpecError):
            spec.parse(f"sparsify:{wrong}")


def test_updates_are_those_of_least_squares():
    """With one column gone, the others are the regression on what stays."""
    rng = np.random.default_rng(0)
    factor = rng.normal(0, 1, (5, 5))
    s, w = factor @ factor.T, rng.normal(0, 1, (1, 2, 5))

    def first(costs: np.ndarray) -> np.ndarray:
        gone = np.zeros(costs.shape, bool)
        gone[:, :, 0] = True
        return gone

    found = mask.with_updates(w, s[None], first, ridge=1e-12)[0]
    assert not found[:, 0].any()
    want = w[0] @ s[:, 1:] @ np.linalg.inv(s[1:, 1:])
    np.testing.assert_allclose(found[:, 1:], want, rtol=1e-6)


def test_weights_elsewhere_are_named():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,40] x, bool c, int64[M] i) => (float[N,40] y, float[M,40] e)
       <float[40,40] w, float[40,40] v, float[50,40] table> {
       a = MatMul(x, w)
       b = MatMul(a, w)
       y = If(c) <then_branch = t () => (float[P,40] p) { p = MatMul(b, v) },
                  else_branch = f () => (float[P,40] q) { q = Neg(b) }>
       e = Gather(table, i)
    }"""
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    ctx = Context(samples_of(4))
    assert Sparsify().run(model, ctx) == 0
    shared = "its weight is shared, or no weight of a Conv, Gemm or MatMul"
    assert ctx.untouched == {
        "a": f"MatMul: {shared}",
        "b": f"MatMul: {shared}",
        "e": f"Gather: {shared}",
        "y.then_branch/p": "MatMul: its weight is in a body",
    }

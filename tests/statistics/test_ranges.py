"""Ranges: exact extremes, one pass, free shapes, a cache that knows what it was made from."""

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from onnxopt.model import Model
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import ranges
from onnxopt.statistics.histogram import BINS, METHODS, Histogram

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x) => (float[N,3] y) <float s = {2.0}> { z = Mul(x, s) y = Relu(z) }"""


def _samples(*arrays):
    return Samples(lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "here")


def _model():
    return Model.from_proto(onnx.parser.parse_model(TEXT))


def test_extremes_are_exact_and_shapes_are_free():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, n, (n, 3)).astype(np.float32) for n in (1, 5, 20_000)]
    found = ranges.collect(_model(), ["x", "z", "y"], _samples(*arrays))
    every = np.concatenate(arrays)
    assert (found["x"].low, found["x"].high) == (every.min(), every.max())
    assert (found["z"].low, found["z"].high) == (2 * every.min(), 2 * every.max())
    assert (found["y"].low, found["y"].high) == (0, 2 * every.max())
    assert found["z"].averages[2] == 3


def test_no_sample_is_dropped():
    # onnxruntime's calibrator with a limit on kept outputs forgets what came before
    arrays = [np.full((1, 3), v, np.float32) for v in (50, 1, 1, 1, -0.5)]
    found = ranges.collect(_model(), ["x"], _samples(*arrays))
    assert (found["x"].low, found["x"].high) == (-0.5, 50)
    assert found["x"].counts.sum() == 15


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_what_is_not_finite_is_named(value, word):
    arrays = [np.ones((1, 3), np.float32), np.asarray([[1, value, 2]], np.float32)]
    found = ranges.collect(_model(), ["x", "y"], _samples(*arrays))
    assert found["x"].trouble == f"{word} on sample 1"
    assert found["x"].high == 1


def test_doubling_keeps_all_counts():
    histogram = Histogram()
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, s, 1000) for s in (1e-3, 1, 100)]
    for part in parts:
        histogram.add(part, part.min(), part.max())
    edges = histogram.start + histogram.width * np.arange(BINS + 1)
    want = np.histogram(np.concatenate(parts), edges)[0]
    assert histogram.counts.sum() == 3000
    # an element that lies on an edge may be counted on either side of it
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(want)).max() <= 2


def _filled(values):
    histogram = Histogram()
    histogram.add(values, values.min(), values.max())
    return histogram


def _true_error(values, low, high):
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return np.mean(((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values) ** 2)


def test_expected_error_is_the_error():
    values = np.random.default_rng(0).normal(0, 1, 100_000)
    histogram = _filled(values)
    for span in ((values.min(), values.max()), (-3, 3), (-2, 3.5)):
        assert histogram.error(*span) == pytest.approx(_true_error(values, *span), rel=0.1)


def test_zeros_cost_nothing():
    values = np.maximum(np.random.default_rng(0).normal(-1, 1, 100_000), 0)
    histogram = _filled(values)
    span = (0.0, float(values.max()))
    assert histogram.error(*span) == pytest.approx(_true_error(values, *span), rel=0.1)


def test_auto_is_the_method_of_least_error():
    values = np.random.default_rng(0).laplace(0, 1, 100_000) ** 3
    histogram = _filled(values)
    errors = {m: _true_error(values, *histogram.span(m)) for m in METHODS}
    chosen = _true_error(values, *histogram.span("auto"))
    assert chosen <= 1.05 * min(errors.values())
    assert chosen < errors["minmax"]


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_zero_is_in_every_range(method):
    for values in (np.full(8, 3.0), np.full(8, -3.0), np.zeros(8), np.linspace(2, 5, 100)):
        low, high = _filled(values).span(method)
        assert low <= 0 <= high
        assert np.isfinite([low, high]).all()


def test_a_range_is_asymmetric():
    values = np.random.default_rng(0).exponential(1, 10_000)
    for method in (*METHODS, "auto"):
        low, high = _filled(values).span(method)
        assert low == 0
        assert 1 < high <= values.max() + 1e-6


def test_the_cache_knows_the_weights(tmp_path, monkeypatch):
    # onnxruntime's cache has no fingerprint: weights times 1000 would reuse the old scales
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    samples = _samples(np.ones((1, 3), np.float32))
    model = _model()
    first = ranges.cached(model, ["z"], samples)
    again = ranges.cached(model, ["z"], samples)
    assert again["z"].high == first["z"].high == 2
    assert np.array_equal(again["z"].counts, first["z"].counts)
    scale = model.graph.nodes[0].inputs[1]
    scale.values = np.asarray(scale.values * 1000, np.float32)
    assert ranges.cached(model, ["z"], samples)["z"].high == 2000
    other = _samples(np.full((1, 3), 2, np.float32))
    assert ranges.cached(model, ["z"], other)["z"].high == 4000
    assert len(list((tmp_path / "onnxopt" / "ranges").iterdir())) == 3


def _key(old="", new="", arrays=None, names=("z",), label=None):
    arrays = arrays or [np.ones((1, 3), np.float32)]
    samples = Samples(lambda: ((lambda a=a: Sample({"x": a}, label)) for a in arrays), "here")
    model = Model.from_proto(onnx.parser.parse_model(TEXT.replace(old, new)))
    return ranges.fingerprint(model.export(), samples, names)


def test_the_key_is_the_same_for_the_same():
    assert _key() == _key()


@pytest.mark.parametrize(
    "changed",
    [
        {"old": "Relu", "new": "Abs"},
        {"old": '"" : 17', "new": '"" : 16'},
        {"old": "{2.0}", "new": "{2.0000002}"},
        {"arrays": [np.full((1, 3), 1.0000001, np.float32)]},
        {"arrays": [np.ones((3, 1), np.float32)]},
        {"arrays": [np.ones((1, 3), np.float32)] * 2},
        {"names": ("z", "y")},
        {"label": np.asarray(1)},
    ],
)
def test_each_part_of_the_key_matters(changed):
    assert _key(**changed) != _key()


@pytest.mark.parametrize("package", ["onnxopt", "onnxruntime"])
def test_both_versions_are_in_the_key(monkeypatch, package):
    before = _key()
    if package == "onnxopt":
        monkeypatch.setattr(ranges, "version", lambda name: f"other {name}")
    else:
        monkeypatch.setattr(ranges.runtime, "version", lambda: "other")
    assert _key() != before


def test_nodes_that_reduce_run_right_behind_what_they_read():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2,3] x) => (float[2,3] y) { a = Relu(x)  b = Abs(a)  y = Neg(b) }"""
    graph = Model.from_proto(onnx.parser.parse_model(text)).graph
    first = len(graph.nodes)
    for name in ("b", "x", "a"):
        tensor = next(t for t in graph.tensors().values() if t.name == name)
        inner, out = (gs.Variable(f"{name}.{w}", np.float32) for w in ("inner", "out"))
        graph.nodes.append(gs.Node("Abs", f"{name}.1", {}, [tensor], [inner]))
        graph.nodes.append(gs.Node("Neg", f"{name}.2", {}, [inner], [out]))
    ranges.early(graph, first)
    made = [n.outputs[0].name for n in graph.nodes]
    assert made == [
        "x.inner", "x.out", "a", "a.inner", "a.out", "b", "b.inner", "b.out", "y"
    ]  # fmt: skip

"""What layers read: right, shared where it is the same, and in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import Tap, linear
from onnxopt.testing import fill
from onnxopt_passes.quant import coded, readings, refine, scheme, staged

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

BRANCHES = (
    HEAD
    + """h (float[1,4,9,9] x) => (float[A,B,C,D] a, float[A,B,C,D] b, float[A,B,E,F] c, float y)
<float[6,4,3,3] w1, float[6,4,3,3] w2, float[6,4,3,3] w3, float[6,5] w4> {
   a = Conv<pads=[1,1,1,1]>(x, w1)
   b = Conv<pads=[1,1,1,1]>(x, w2)
   c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w3)
   p = GlobalAveragePool(b)
   f = Flatten(p)
   y = Gemm(f, w4)
}"""
)

WIDTH, LAYERS = 192, 24


def _model(text):
    return Model.from_proto(fill(onnx.parser.parse_model(text)))


def _drawn(shape, count):
    def loaders():
        for i in range(count):
            rng = np.random.default_rng(i)
            yield lambda rng=rng: Sample({"x": rng.normal(1, 1, shape).astype(np.float32)})

    return Samples(loaders, "here", length=count)


def _stack():
    lines = [f"m{i} = MatMul(x{i}, w{i}) x{i + 1} = Tanh(m{i})" for i in range(LAYERS)]
    lines[0] = lines[0].replace("x0,", "x,")
    held = ", ".join(f"float[{WIDTH},{WIDTH}] w{i}" for i in range(LAYERS))
    kind = f"float[20,{WIDTH}]"
    return _model(f"{HEAD}g ({kind} x) => ({kind} x{LAYERS}) <{held}> {{ {' '.join(lines)} }}")


def _peak(work):
    """Return the most bytes that arrays took at a time, those before not counted."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = work()
        return tracemalloc.get_traced_memory()[1] - before, result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("room", [1, 1 << 23])
def test_moments_are_those_of_all_rows(monkeypatch, room):
    monkeypatch.setattr(staged, "ROOM", room)
    monkeypatch.setattr(readings, "ROWS", 1000)
    model = _model(BRANCHES)
    samples = _drawn((1, 4, 9, 9), 7)
    layers = linear.find_all(model.graph)
    found = readings.read(model, layers, samples, Settings())
    for layer in layers:
        reading = found[id(layer.weight)]
        tap = Tap(model, [layer.source])
        rows = [
            layer.rows(v, np.arange(layer.positions(v.shape)))[0]
            for v in (tap(s.feed)[0] for s in samples)
        ]
        every = np.concatenate(rows).astype(np.float64)
        np.testing.assert_allclose(reading.mean[0], every.mean(0), rtol=1e-4, atol=1e-5)
        ((_, about), (_, raw)) = (reading.grams(biased)[0] for biased in (True, False))
        np.testing.assert_allclose(about[0], np.cov(every.T, bias=True), atol=1e-4)
        np.testing.assert_allclose(raw[0], every.T @ every / len(every), rtol=1e-4, atol=1e-4)


WIDE = (
    HEAD
    + """h (float[1,12,9,9] x) => (float[1,5,7,7] y, float[1,6,9,9] z)
<float[5,12,3,3] w, float[6,6,1,1] g> {
   y = Conv(x, w)
   z = Conv<group=2>(x, g)
}"""
)


@pytest.mark.parametrize(("widest", "counts"), [(108, [1, 1]), (60, [4, 1]), (5, [12, 2])])
def test_wide_layers_are_seen_in_parts(monkeypatch, widest, counts):
    monkeypatch.setattr(readings, "ROWS", 1000)
    model, samples = _model(WIDE), _drawn((1, 12, 9, 9), 7)
    layers = linear.find_all(model.graph)
    whole = readings.read(model, layers, samples, Settings())
    monkeypatch.setattr(readings, "WIDEST", widest)
    assert [readings.parts(layer) for layer in layers] == counts
    found = readings.read(model, layers, samples, Settings())
    for layer, count in zip(layers, counts, strict=True):
        key = id(layer.weight)
        for biased in (True, False):
            ((_, every),) = whole[key].grams(biased)
            parts = found[key].grams(biased)
            assert len(parts) == count
            covered = np.concatenate([np.arange(layer.shape[2])[part] for part, _ in parts])
            np.testing.assert_array_equal(covered, np.arange(layer.shape[2]))
            for part, gram in parts:
                np.testing.assert_allclose(gram, every[:, part, part], atol=1e-4)
        np.testing.assert_allclose(found[key].mean, whole[key].mean, rtol=1e-5, atol=1e-6)


def test_parts_of_a_wide_layer_take_what_the_widest_takes(monkeypatch):
    monkeypatch.setattr("onnxopt.statistics.grams.BLOCK", 1 << 12)
    monkeypatch.setattr("onnxopt.spool.IN_MEMORY", 1 << 12)
    text = (
        HEAD
        + "g (float[9,768] x) => (float[9,4] y) <float[768,4] w> { t = Tanh(x) y = MatMul(t, w) }"
    )
    model = _model(text)
    layers, samples = linear.find_all(model.graph), _drawn((9, 768), 20)
    readings.read(model, layers, samples, Settings())  # sessions that are made once
    peaks = []
    for widest in (768, 192):
        monkeypatch.setattr(readings, "WIDEST", widest)
        peak, _ = _peak(lambda: readings.read(model, layers, samples, Settings()))
        peaks.append(peak)
    assert peaks[0] > 8 * 768**2
    assert peaks[1] < peaks[0] / 4, "sixteen parts, of a sixteenth together"


@pytest.mark.parametrize("grid", ["int8", "int4"])
def test_parts_win_back_what_the_whole_does_where_they_are_not_correlated(monkeypatch, grid):
    text = HEAD + "g (float[40,64] x) => (float[40,50] y) <float[64,50] w> { y = MatMul(x, w) }"
    model = _model(text)
    (layer,) = linear.find_all(model.graph)
    rng = np.random.default_rng(1)
    mixed = [rng.normal(size=(16, 16)) for _ in range(4)]
    samples = [
        np.hstack([rng.normal(size=(40, 16)) @ m for m in mixed]).astype(np.float32)
        for _ in range(30)
    ]
    drawn = Samples(lambda: ((lambda x=x: Sample({"x": x})) for x in samples), "here", length=30)
    weight, every = layer.weight.values, np.concatenate(samples)

    def lost(coded):
        return float(np.square(every @ (coded.values() - weight)).sum())

    if grid == "int8":
        plain = coded.by_axis(weight, scheme.GRIDS[grid], True, 1)
    else:
        plain = coded.in_blocks(weight, scheme.GRIDS[grid], True, coded.along(weight.shape, 16), 16)
    errors = []
    for widest in (64, 32):
        monkeypatch.setattr(readings, "WIDEST", widest)
        (reading,) = readings.read(model, [layer], drawn, Settings()).values()
        assert len(reading.grams(biased=True)) == (64 // widest) ** 2
        errors.append(lost(refine.refine(plain, reading, False).coded))
    assert errors[1] < 1.1 * errors[0]
    assert errors[0] < 0.7 * lost(plain)


def test_layers_that_read_the_same_rows_share_them():
    model = _model(BRANCHES)
    layers = linear.find_all(model.graph)
    found = readings.read(model, layers, _drawn((1, 4, 9, 9), 3), Settings())
    places = [found[id(layer.weight)]._place for layer in layers]
    assert places[0] == places[1]
    assert len(set(places)) == 3  # another stride, another tensor


@pytest.mark.parametrize("count", [4, 60])
def test_memory_is_bounded_whatever_the_number_of_layers_and_samples(monkeypatch, count):
    monkeypatch.setattr(staged, "ROOM", 1 << 18)
    monkeypatch.setattr("onnxopt.statistics.grams.BLOCK", 1 << 14)
    monkeypatch.setattr("onnxopt.spool.IN_MEMORY", 1 << 14)
    model = _stack()
    layers = linear.find_all(model.graph)
    matrix = 8 * WIDTH * WIDTH
    size = model.export().nbytes
    peak, found = _peak(
        lambda: readings.read(model, layers, _drawn((20, WIDTH), count), Settings())
    )
    assert len(found) == LAYERS
    assert peak < size + LAYERS / 4 * matrix, "the model, and a part of its layers' matrices"


def test_a_weight_is_refined_in_little_more_than_its_gram(monkeypatch):
    for module in ("rounding", "scheme"):
        monkeypatch.setattr(f"onnxopt_passes.quant.{module}.PART", 1 << 12)
    text = HEAD + "g (float[20,64] x) => (float[20,8000] y) <float[64,8000] w> { y = MatMul(x, w) }"
    model = _model(text)
    (layer,) = linear.find_all(model.graph)
    (reading,) = readings.read(model, [layer], _drawn((20, 64), 20), Settings()).values()
    plain = coded.by_axis(layer.weight.values, scheme.GRIDS["int8"], True, 1)
    peak, found = _peak(lambda: refine.refine(plain, reading, True))
    assert not np.array_equal(found.coded.integers, plain.integers)
    assert peak < 4 * layer.weight.values.nbytes, "in float64 as a whole it takes sixteen"


def test_runs_of_outputs_give_what_the_whole_gives(monkeypatch):
    model = _model(
        HEAD + "g (float[20,64] x) => (float[20,50] y) <float[64,50] w> { y = MatMul(x, w) }"
    )
    (layer,) = linear.find_all(model.graph)
    (reading,) = readings.read(model, [layer], _drawn((20, 64), 20), Settings()).values()
    weight = layer.weight.values
    for plain in (
        coded.by_axis(weight, scheme.GRIDS["int8"], True, 1),
        coded.by_axis(weight, scheme.GRIDS["int8"], True, None),
        coded.in_blocks(weight, scheme.GRIDS["int4"], True, coded.along(weight.shape, 16), 16),
    ):
        whole = refine.refine(plain, reading, True)
        monkeypatch.setattr("onnxopt_passes.quant.rounding.PART", 300)
        parts = refine.refine(plain, reading, True)
        monkeypatch.undo()
        np.testing.assert_array_equal(parts.coded.integers, whole.coded.integers)
        np.testing.assert_array_equal(parts.coded.params.scale, whole.coded.params.scale)
        np.testing.assert_allclose(parts.offsets, whole.offsets, atol=1e-9)


def test_what_a_layer_reads_does_not_depend_on_what_else_is_read(monkeypatch):
    monkeypatch.setattr(readings, "ROWS", 8)  # of 25
    model = _model(BRANCHES)
    samples = _drawn((1, 4, 9, 9), 60)
    layers = linear.find_all(model.graph)
    third = layers[2]
    one, all_ = (readings.read(model, some, samples, Settings()) for some in ([third], layers))
    np.testing.assert_array_equal(
        *(found[id(third.weight)].grams(biased=False)[0][1] for found in (one, all_))
    )

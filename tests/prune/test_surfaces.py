"""What layers take at any widths: timed where they can be, interpolated between."""

from types import SimpleNamespace

import numpy as np
import onnx.parser
import pytest

from onnxopt import Model
from onnxopt.profile import Kernel
from onnxopt.statistics import linear
from onnxopt.testing import fill
from onnxopt_passes.prune import search, surfaces
from onnxopt_passes.prune.surfaces import Surface, timed


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def layer_of(body: str, types: str, source: str):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{source}] x) => (float y) <{types}> {{ {body} }}"""
    model = Model.from_proto(fill(onnx.parser.parse_model(text)))
    (layer,) = linear.find_all(model.graph)
    return layer


LAYERS = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", "float[16,8,3,3] w, float[16] b", "1,8,6,5"),
    "grouped": ("y = Conv<group=2>(x, w)", "float[16,8,1,1] w", "1,16,6,5"),
    "depthwise": ("y = Conv<group=16, pads=[1,1,1,1]>(x, w)", "float[16,1,3,3] w", "1,16,6,5"),
    "gemm": ("y = Gemm<transB=1>(x, w, b)", "float[12,8] w, float[12] b", "3,8"),
    "matmul": ("p = MatMul(x, w) y = Add(p, b)", "float[8,12] w, float[12] b", "2,3,8"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_timed_by_onnxruntime(name):
    layer = layer_of(*LAYERS[name])
    shape = [int(n) for n in LAYERS[name][2].split(",")]
    found = timed(layer, shape, 4)
    assert found.whole > 0
    assert np.all(found.seconds >= 0)
    assert found.at(0, 1) == 0
    assert all(shares[0] == 0 and shares[-1] == 1 for shares in found.left)


def counted(monkeypatch) -> list:
    """Replace the clock by the size of the weight in blocks of 8 by 8; return what is timed."""
    seen = []

    def measure(models, feed, settings):
        found = []
        for model in models:
            first, second = model.proto.graph.initializer[0].dims[:2]
            assert settings.optimize
            seen.append((first, second))
            blocks = float(-(-first // 8) * -(-second // 8))
            found.append([Kernel("c", "Conv", blocks, 1.0), Kernel("r", "ReorderInput", 9.0, 0.0)])
        return found

    monkeypatch.setattr(surfaces.profile, "measure", measure)
    return seen


CONV = ("y = Conv(x, w)", "float[32,64,1,1] w", "1,64,4,4")


def test_times_are_those_of_whole_blocks_and_lie_between_them_else(monkeypatch):
    seen = counted(monkeypatch)
    found = timed(layer_of(*CONV), (1, 64, 4, 4), 8)
    assert sorted(set(seen)) == [(a, b) for a in (8, 16, 24, 32) for b in (16, 32, 48, 64)]
    assert found.whole == 32
    assert found.at(0.5, 0.5) == 8
    assert found.at(0.5, 0.375) == 6
    np.testing.assert_allclose(found.at(np.array([0, 0.25, 1]), 0.25), [0, 2, 8])
    assert found.along([0])(0.5) == 16
    assert found.along([1])(0.5) == 16
    assert found.along([])() == 32


def test_a_kind_of_layer_is_timed_once(monkeypatch):
    seen = counted(monkeypatch)
    first = timed(layer_of(*CONV), (1, 64, 4, 4), 8)
    count = len(seen)
    again = timed(layer_of(*CONV), (1, 64, 4, 4), 8)
    assert len(seen) == count
    np.testing.assert_array_equal(first.seconds, again.seconds)
    timed(layer_of(*CONV), (1, 64, 5, 4), 8)
    timed(layer_of(*CONV), (1, 64, 4, 4), 8, threads=2)
    assert len(seen) == 3 * count


def test_below_what_was_timed_the_first_slope_goes_on_but_not_below_nothing():
    rows = np.array([[3.0], [5.0], [9.0]])
    assert surfaces._from_nothing(rows, [2, 4, 8])[0] == 1
    assert surfaces._from_nothing(np.array([[1.0], [5.0]]), [2, 4])[0] == 0
    assert surfaces._from_nothing(np.array([[5.0], [1.0]]), [2, 4])[0] == 5


def test_weights_cost_what_their_surfaces_say():
    surface = Surface(((0.0, 0.5, 1.0), (0.0, 1.0)), np.array([[0, 0], [0, 6.0], [0, 8.0]]))
    weight = SimpleNamespace(name="w", shape=(4, 3))
    member = SimpleNamespace(constant=weight, axis=0, columns=np.arange(4)[:, None])
    group = SimpleNamespace(members=[member])
    (work,) = search.works([group], {"w": surface.whole}, {"w": surface})
    assert work.at(1.0) == 8
    assert work.at(0.5) == 6
    assert work.axes == ({0: 0.25},)

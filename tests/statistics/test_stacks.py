"""Samples run together give what each gives by itself; where they would not, they run alone."""

import numpy as np
import onnx.parser
import pytest

from onnxopt import Model
from onnxopt.statistics import Stages, stacks
from onnxopt.statistics.stacks import stacked, together
from onnxopt.testing import fill

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,4] x) => (float[N,3,4] y) <'
WEIGHTS = "float[4,4] w>"


def model_of(body: str, weights: str = WEIGHTS) -> Model:
    return Model.from_proto(fill(onnx.parser.parse_model(f"{HEAD}{weights} {{ {body} }}")))


def tensors(model: Model) -> list:
    return [t for node in model.graph.nodes for t in node.outputs]


def feeds(count: int, rows: int = 3) -> list:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, rows, 4)).astype(np.float32)} for _ in range(count)]


def test_stacks_hold_all_samples_in_order_and_those_held_out_apart():
    given = feeds(11)
    found = list(stacked(given, 3, lambda n: n % 4 == 3))
    assert [(s.count, s.held) for s in found] == [(3, False), (3, False), (3, False), (2, True)]
    kept = [n for n in range(11) if n % 4 != 3] + [3, 7]
    joined = np.concatenate([s.feed["x"] for s in found])
    np.testing.assert_array_equal(joined, np.concatenate([given[n]["x"] for n in kept]))


def test_other_shapes_begin_another_stack():
    given = [*feeds(2), *feeds(3, rows=5), *feeds(1)]
    assert [s.feed["x"].shape for s in stacked(given, 16)] == [(2, 3, 4), (3, 5, 4), (1, 3, 4)]


def test_a_stack_of_one_is_the_sample_itself():
    given = feeds(2)
    assert all(s.feed is feed for s, feed in zip(stacked(given, 1), given, strict=True))


def test_a_stack_computes_what_its_samples_compute():
    model = model_of("a = MatMul(x, w) y = Relu(a)")
    most = together(model, [tensors(model)], feeds(9))
    assert most == stacks.MOST
    wanted = [tensors(model)]
    each = Stages(model, wanted, feeds(9)).run()
    inputs = [s.feed for s in stacked(feeds(9), most)]
    (both,) = Stages(model, wanted, inputs).run()
    for i, values in enumerate(each):
        for one, all_ in zip(values, both, strict=True):
            np.testing.assert_allclose(all_[i : i + 1], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Softmax<axis=0>(x)", WEIGHTS),
        ("m = ReduceMean<axes=[0]>(x) y = Sub(x, m)", WEIGHTS),
        ("t = Transpose<perm=[1, 0, 2]>(x) y = Transpose<perm=[1, 0, 2]>(t)", WEIGHTS),
        ("y = Reshape(x, s)", "int64[3] s = {1, 3, 4}>"),
        ("y = Reshape(x, s)", "int64[3] s = {1, -1, 4}>"),
    ],
    ids=["softmax", "mean", "second", "fixed", "first"],
)
def test_samples_that_meet_run_alone(body, weights):
    model = model_of(body, weights)
    assert together(model, [tensors(model)], feeds(4)) == 1


def test_samples_of_other_shapes_run_alone():
    model = model_of("y = Relu(x)")
    assert together(model, [tensors(model)], [*feeds(1), *feeds(1, rows=5)]) == 1
    assert together(model, [tensors(model)], feeds(1)) == 1


def test_what_is_read_at_once_bounds_a_stack(monkeypatch):
    model = model_of("a = MatMul(x, w) y = Relu(a)")
    a, y = tensors(model)
    monkeypatch.setattr(stacks, "ROOM", 480)  # ten tensors of 48 bytes
    assert together(model, [[a], [y]], feeds(4)) == 10
    assert together(model, [[a, y]], feeds(4)) == 5
    monkeypatch.setattr(stacks, "ROOM", 10)
    assert together(model, [[a]], feeds(4)) == 1

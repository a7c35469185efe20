"""A layer's matrix times its rows is what onnxruntime computes."""

import numpy as np
import onnx.parser
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxopt import Model, match
from onnxopt.samples import synthetic
from onnxopt.statistics import Linear, Tap, linear
from onnxopt.testing import fill


def model_of(body: str, types: str, source: str = "float[N,4,M,L] x") -> Model:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g ({source}) => (float y) <{types}> {{ {body} }}"""
    return Model.from_proto(fill(onnx.parser.parse_model(text)))


def assert_linear(model: Model) -> Linear:
    """Assert that W x + b, of rows that are drawn, is y; return the layer."""
    (layer,) = linear.find_all(model.graph)
    tap = Tap(model, [layer.source, layer.output])
    ran = 0
    for sample in synthetic(model.export().inputs, n=6):
        x, y = tap(sample.feed)
        picks = layer.pick(x.shape, 7, (0, ran))
        assert len(picks) == min(7, layer.positions(x.shape))
        rows, targets = layer.rows(x, picks), layer.targets(y, picks)
        matrix = layer.matrix()
        assert matrix.shape == layer.shape
        offsets = layer.offsets().reshape(matrix.shape[0], 1, -1)
        got = rows @ matrix.transpose(0, 2, 1) + offsets
        np.testing.assert_allclose(got, targets, rtol=1e-3, atol=1e-4)
        ran += 1
    assert ran == 6
    return layer


@settings(deadline=None, max_examples=15)
@given(
    group=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    auto=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    bias=st.booleans(),
)
def test_conv(group, kernel, strides, dilations, pads, auto, bias):
    assume(auto in ("NOTSET", "VALID") or dilations == (1, 1))  # onnxruntime refuses the others
    attributes = (
        f"group={group}, strides=[{strides[0]},{strides[1]}],"
        f" dilations=[{dilations[0]},{dilations[1]}]"
    )
    if auto == "NOTSET":
        attributes += f", pads=[{','.join(map(str, pads))}]"
    else:
        attributes += f', auto_pad="{auto}"'
    inputs = "x, w, b" if bias else "x, w"
    types = f"float[8,{4 // group},{kernel[0]},{kernel[1]}] w, float[8] b"
    model = model_of(f"y = Conv<{attributes}>({inputs})", types, "float[N,4,9,8] x")
    assert_linear(model)


@pytest.mark.parametrize(
    ("body", "types", "source"),
    [
        ("y = Conv(x, w)", "float[6,4,3] w", "float[N,4,7] x"),
        ("y = Conv(x, w, b)", "float[6,4,2,2,2] w, float[6] b", "float[N,4,3,4,5] x"),
        ("y = Gemm(x, w, b)", "float[4,6] w, float[6] b", "float[N,4] x"),
        ("y = Gemm<transB=1>(x, w)", "float[6,4] w", "float[N,4] x"),
        (
            "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
            "float[6,4] w, float[1,6] b",
            "float[N,4] x",
        ),
        ("y = Gemm(x, w, b)", "float[4,6] w, float[1] b", "float[N,4] x"),
        ("y = MatMul(x, w)", "float[4,6] w", "float[N,M,4] x"),
        ("p = MatMul(x, w) y = Add(b, p)", "float[4,6] w, float[6] b", "float[N,M,4] x"),
    ],
)
def test_layers(body, types, source):
    assert_linear(model_of(body, types, source))


def test_what_is_written_is_computed():
    body = "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)"
    model = model_of(body, "float[6,4] w, float[6] b", "float[N,4] x")
    layer = assert_linear(model)
    matrix, offsets = layer.matrix() + 1, layer.offsets() - 1
    layer.write(matrix, offsets)
    np.testing.assert_allclose(layer.matrix(), matrix, rtol=1e-5)
    np.testing.assert_allclose(layer.offsets(), offsets, rtol=1e-5)
    assert_linear(model.clone())


def test_a_conv_is_given_a_bias():
    model = model_of("y = Conv(x, w)", "float[6,4,1,1] w")
    layer = assert_linear(model)
    layer.write(layer.matrix(), np.arange(6.0))
    again = assert_linear(model.clone())
    np.testing.assert_array_equal(again.offsets(), np.arange(6.0))


def test_a_matmul_without_add_has_no_place_for_a_bias():
    model = model_of("y = MatMul(x, w)", "float[4,6] w", "float[N,4] x")
    layer = assert_linear(model)
    assert not layer.biased
    with pytest.raises(ValueError, match="no place for a bias"):
        layer.write(layer.matrix(), np.zeros(6))


@pytest.mark.parametrize(
    ("body", "types"),
    [
        ("a = MatMul(x, w) b = MatMul(a, w) y = Add(a, b)", "float[4,4] w"),
        ("a = Neg(w) y = MatMul(x, a)", "float[4,4] w"),
        ("y = MatMul(x, w)", "float[4] w"),
        ("y = Gemm<transA=1>(x, w)", "float[4,4] w"),
        ("a = Neg(b) y = Gemm(x, w, a)", "float[4,4] w, float[4] b"),
    ],
)
def test_what_is_left_alone(body, types):
    model = model_of(body, types, "float[4,4] x")
    assert linear.find_all(model.graph) == []


def test_a_near_miss_is_named():
    model = model_of("a = MatMul(x, w) y = MatMul(a, w)", "float[4,4] w", "float[4,4] x")
    match.stamp(model.graph)
    token = match.MISSES.set([])
    try:
        assert linear.find(model.graph, model.graph.nodes[0]) is None
        assert match.MISSES.get() == ["other nodes read its weight"]
    finally:
        match.MISSES.reset(token)

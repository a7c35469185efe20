"""Scale and zero-point arithmetic, held against onnxruntime's own operators."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.runtime import run_once
from onnxopt_passes.quant import scheme
from onnxopt_passes.quant.scheme import GRIDS


def _onnx_round_trip(x, params, opset=21):
    inits = [
        numpy_helper.from_array(params.scale, "s"),
        numpy_helper.from_array(params.zero_point, "z"),
        numpy_helper.from_array(x, "x"),
    ]
    attrs = {} if params.axis is None else {"axis": params.axis}
    if params.block:
        attrs["block_size"] = params.block
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)
    graph = helper.make_graph(nodes, "g", [], [out], inits)
    return run_once(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    )["y"]


@pytest.mark.parametrize("grid", ["int4", "uint4", "int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("axis", "block"), [(None, 0), (0, 0), (1, 0), (0, 4)])
def test_round_trip_is_that_of_onnxruntime(grid, balanced, axis, block):
    if grid == "int4" and not balanced and axis is None:
        pytest.skip("onnxruntime returns zeros there; the pass refuses 4 bits without blocks")
    x = np.random.default_rng(0).normal(0.3, 1, (8, 5)).astype(np.float32)
    params = scheme.fit(x, GRIDS[grid], balanced, axis, block)
    got = scheme.rounded(x, params)
    step = scheme.spread(params.scale, x.shape, params.axis, params.block)
    assert np.all(np.abs(got - _onnx_round_trip(x, params)) <= 1e-6 * np.abs(x).max())
    assert np.all(np.abs(got - x) <= 0.5001 * step)


def test_zero_is_on_the_grid():
    params = scheme.affine(0.3, 2.0, GRIDS["uint8"])
    assert scheme.rounded(np.zeros(3, np.float32), params).tolist() == [0, 0, 0]
    assert params.zero_point == 0


def test_a_scalar_has_a_place_on_the_grid():
    params = scheme.affine(np.float32(0), np.float32(6), scheme.GRIDS["uint8"])
    assert scheme.rounded(np.array(3, np.float32), params) == pytest.approx(3, abs=6 / 255)


def test_symmetric_int8_leaves_out_the_least_number():
    x = np.asarray([-1, 1], np.float32)
    assert scheme.quantize(x, scheme.fit(x, GRIDS["int8"], True)).tolist() == [-127, 127]


def test_a_channel_of_zeros_has_a_usable_scale():
    x = np.zeros((2, 3), np.float32)
    params = scheme.fit(x, GRIDS["int8"], True, axis=0)
    assert np.all(params.scale > 0)
    assert not scheme.rounded(x, params).any()


def test_last_block_may_be_short():
    x = np.arange(10, dtype=np.float32)[:, None]
    params = scheme.fit(x, GRIDS["int8"], True, axis=0, block=4)
    assert params.scale.shape == (3, 1)
    assert np.allclose(scheme.rounded(x, params), x, atol=0.04)

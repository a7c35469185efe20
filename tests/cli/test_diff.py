from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture
def other(folder):
    """`other.onnx`: one weight differs a little."""
    model = onnx.load("model.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "b")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, 1.1, np.float32), "b"))
    onnx.save(model, "other.onnx")


def test_a_model_is_the_same_as_itself(cli):
    result = cli("diff", "model.onnx", "model.onnx")
    assert result.code == 0
    assert "same Same interface. Outputs equal up to rounding on 6 samples drawn" in result.page


def test_the_optimized_model_is_the_same(cli):
    cli("run", "model.onnx", "--quiet")
    result = cli("diff", "model.onnx", "model.opt.onnx", "--calib", "data.npz")
    assert result.code == 0
    assert "Identity 1 0 -1" in result.page
    assert "16 samples of data.npz" in result.page


@pytest.mark.usefixtures("other")
def test_other_weights(cli):
    result = cli("diff", "model.onnx", "other.onnx", "--calib", "data.npz")
    assert result.code == 1
    assert "changed 1 tensor, 16 B: b" in result.page
    assert "different 1 output differs by more than rounding" in result.page


@pytest.mark.usefixtures("other")
def test_json(cli):
    result = cli("diff", "model.onnx", "other.onnx", "--json")
    found = result.json
    assert (result.code, found["same"], found["interface"]) == (1, False, [])
    assert found["tensors"]["changed"]["largest"][0]["name"] == "b"
    (output,) = found["numbers"]["outputs"]
    assert output["name"] == "y"
    assert not output["same"]
    assert output["largest"] == pytest.approx(0.1, rel=1e-3)
    assert found["numbers"]["synthetic"]


def test_interface(cli, make):
    make("wide.onnx", "g (float[N, 9] z) => (float[N, 9] y) { y = Relu(z) }")
    result = cli("diff", "model.onnx", "wide.onnx")
    assert result.code == 1
    assert "- input x: float32[N, 8]" in result.page
    assert "+ input z: float32[N, 9]" in result.page
    assert "B needs inputs that A does not have: z." in result.page


def test_order_of_inputs(cli, make):
    make("a.onnx", "g (float[2] x, float[2] z) => (float[2] y) { y = Sub(x, z) }")
    make("b.onnx", "g (float[2] z, float[2] x) => (float[2] y) { y = Sub(x, z) }")
    assert "the inputs are in another order" in cli("diff", "a.onnx", "b.onnx").page


def test_what_cannot_be_compared_is_not_the_same(cli):
    result = cli("diff", "custom.onnx", "custom.onnx")
    assert result.code == 1
    assert "Outputs are not compared: onnxruntime cannot load A" in result.page


def test_nan_is_no_number_of_json(cli, make):
    make("a.onnx", "g (float[2] x) => (float[2] y) { y = Relu(x) }")
    make("b.onnx", "g (float[2] x) => (float[2] y) { a = Sub(x, x) y = Div(a, a) }")
    (output,) = cli("diff", "a.onnx", "b.onnx", "--json").json["numbers"]["outputs"]
    assert (output["drift"], output["same"]) == (None, False)
    assert "NaN or Inf in other places" in cli("diff", "a.onnx", "b.onnx").page

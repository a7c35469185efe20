from __future__ import annotations

import pytest

KEYS = {
    "path", "bytes", "min_ms", "median_ms", "spread_ms", "runs", "load_ms", "peak_bytes",
    "model_bytes",
}  # fmt: skip


def test_one_model(cli):
    page = cli("bench", "model.onnx", "--seconds", "0.02").page
    for word in ("minimum", "median", "spread", "runs", "load", "peak memory", "1 thread"):
        assert word in page
    assert "B / A" not in page
    assert "onnxruntime" in page


def test_two_models(cli):
    cli("run", "model.onnx", "--quiet")
    args = ("bench", "model.onnx", "model.opt.onnx", "--seconds", "0.02", "--calib", "data.npz")
    page = cli(*args).page
    assert "input x 1x8, of data.npz" in page
    assert "B / A" in page
    assert "as fast as A" in page


def test_json(cli):
    args = ("bench", "model.onnx", "model.onnx", "--seconds", "0.02", "--threads", "2")
    found = cli(*args, "--json").json
    assert [set(m) for m in found["models"]] == [KEYS, KEYS]
    for model in found["models"]:
        assert model["runs"] >= 5
        assert model["peak_bytes"] is None or model["peak_bytes"] > model["model_bytes"]
        assert model["load_ms"] is not None
    assert (found["threads"], found["synthetic"]) == (2, True)
    assert found["input"] == {"x": [1, 8]}


def test_models_take_the_same_inputs(cli, make):
    make("z.onnx", "g (float[2] z) => (float[2] y) { y = Relu(z) }")
    message = cli("bench", "model.onnx", "z.onnx").error(2)
    assert "z.onnx does not take the inputs of model.onnx" in message


def test_profile_shows_kernels_side_by_side(cli):
    args = ("bench", "model.onnx", "model.onnx", "--seconds", "0.02", "--profile")
    page = cli(*args).page
    for words in ("kernels by op A share B share", "dearest kernels of A", "dearest kernels of B"):
        assert words in page
    a, b = cli(*args, "--json").json["profile"]
    assert {k["op"] for k in a} == {k["op"] for k in b}
    assert sum(k["share"] for k in a) == pytest.approx(1)
    assert cli(*args[:-1], "--json").json["profile"] is None

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).parent.parent.parent / "models"


def test_page(cli):
    page = cli("inspect", "model.onnx").page
    assert "inputs x: float32[N, 8]" in page
    assert "outputs y: float32[N, 4]" in page
    assert "opset 17" in page
    assert "MACs 32 for x 1x8" in page
    assert "parameters 36 in 2 tensors" in page
    assert "w float32 8x4 128 B" in page
    assert "clean 1 -1 " in page


def test_json(cli):
    found = cli("inspect", "model.onnx", "--json").json
    assert found["op_histogram"] == {"Add": 1, "Identity": 1, "MatMul": 1, "Relu": 1}
    assert (found["nodes"], found["params"], found["macs"]) == (4, 36, 32)
    assert found["inputs"][0]["shape"] == ["N", 8]
    assert found["largest"][0] == {"name": "w", "dtype": "float32", "shape": [8, 4], "bytes": 128}
    clean = next(p for p in found["passes"] if p["name"] == "clean")
    assert (clean["exact"], clean["nodes"]) == (True, -1)
    assert clean["edits"] == sum(clean["rules"].values())


def test_samples_give_sizes(cli):
    np.savez("wide.npz", x=np.zeros((3, 5, 8), np.float32))
    found = cli("inspect", "model.onnx", "--calib", "wide.npz", "--json").json
    assert found["macs_for"] == {"x": [5, 8]}
    assert found["macs"] == 5 * 32


def test_models_that_cannot_be_run(cli):
    page = cli("inspect", "custom.onnx").page
    assert "my.Unknown" in page
    assert "nothing to do" in page


def test_passes_run_behind_those_they_require(cli):
    names = [p["name"] for p in cli("inspect", "model.onnx", "--json").json["passes"]]
    assert names.index("clean") < names.index("fuse")


@pytest.mark.usefixtures("lossy")
def test_lossy_passes_are_not_tried(cli):
    found = {p["name"]: p for p in cli("inspect", "model.onnx", "--json").json["passes"]}
    assert found["scale"]["edits"] is None
    assert found["scale"]["reason"] == "lossy: needs calibration data"
    assert found["rude"]["reason"] == "needs calibration data"
    assert found["wrong"]["rules"] == {"scale": 2}
    assert list(found).index("scale") < list(found).index("rude")


def test_tensors_in_subgraphs(cli, make):
    make(
        "if.onnx",
        "g (bool c, float[2] x) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { a = Add(x, k) },"
        "else_branch = e () => (float[2] b) {"
        " v = Constant <value = float[2] {3, 4}> () b = Mul(x, v) }> }",
    )
    found = cli("inspect", "if.onnx", "--json").json
    assert {t["name"] for t in found["largest"]} == {"y.then_branch/k", "y.else_branch/v"}
    assert found["graphs"] == 3


def test_hostile_names_do_no_harm(cli, make):
    make("m.onnx", "g (float[2] x) => (float[2] y) { y = Relu(x) }")
    import onnx

    model = onnx.load("m.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "a\x1b[31m[bold]\n" + "x" * 200
    onnx.save(model, "m.onnx")
    page = cli("inspect", "m.onnx").page
    assert "[bold]" in page


def sensitivity(*more: str) -> list[str]:
    data = str(MODELS / "digits_vit.calib.npz")
    return ["inspect", str(MODELS / "digits_vit.onnx"), "--sensitivity", "--calib", data, *more]


def test_sensitivity(cli):
    done = cli(*sensitivity())
    assert max(map(len, done.out.splitlines())) <= 80
    assert "node op error saved time saved size price" in done.page
    assert "mode dynamic" in done.page
    found = cli(*sensitivity("--json")).json
    prices = [n["price"] for n in found["nodes"] if n["price"] is not None]
    assert prices == sorted(prices, reverse=True)
    assert {"name", "op", "step", "error", "drop", "microseconds", "bytes", "price"} == set(
        found["nodes"][0]
    )
    assert found["samples"] > 0


def test_sensitivity_says_what_it_needs(cli):
    assert "--calib" in cli("inspect", "model.onnx", "--sensitivity").error(2)
    assert "exclude" in cli("inspect", "model.onnx", "--sensitivity", "--groups").error(2)
    assert "no input 'image'" in cli("inspect", "model.onnx", *sensitivity()[2:]).error(2)
    np.savez("two.npz", x=np.zeros((8, 2), np.float32))
    said = cli("inspect", "custom.onnx", "--sensitivity", "--calib", "two.npz").error(2)
    assert "onnxruntime" in said

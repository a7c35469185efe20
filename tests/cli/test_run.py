from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

SECTIONS = {
    "schema_version", "versions", "source", "result", "steps", "proof", "latency", "untouched",
    "notes", "detail", "seconds",
}  # fmt: skip


def files() -> list[str]:
    return sorted(os.listdir())


def test_writes_beside_the_source_and_says_so(cli, folder):
    before = Path("model.onnx").read_bytes()
    page = cli("run", "model.onnx").page
    assert page.endswith("wrote model.opt.onnx")
    assert "Same outputs on 6 inputs drawn from the interface" in page
    assert "give --calib" in page
    assert Path("model.onnx").read_bytes() == before
    onnx.checker.check_model("model.opt.onnx")
    assert files() == ["custom.onnx", "data.npz", "model.onnx", "model.opt.onnx"]


def test_says_what_each_pass_did(cli):
    page = cli("run", "model.onnx", "--calib", "data.npz").page
    for word in ("clean", "fuse", "size", "nodes", "parameters", "MACs", "latency, 1 thread"):
        assert word in page
    assert "Same outputs on 4 hold-out samples of data.npz, run as written and with" in page
    assert "noise floor" in page
    assert "--calib" not in page


def test_output_names_the_file(cli):
    assert cli("run", "model.onnx", "-o", "small.onnx").page.endswith("wrote small.onnx")
    assert Path("small.onnx").exists()
    assert not Path("model.opt.onnx").exists()


def test_long_paths_are_not_folded(cli):
    name = "a" * 90 + ".onnx"
    out = cli("run", "model.onnx", "-o", name).out
    assert f"wrote {name}" in out.splitlines()


def test_output_may_be_the_source(cli):
    assert cli("run", "model.onnx", "--output", "model.onnx").code == 0
    ops = [n.op_type for n in onnx.load("model.onnx").graph.node]
    assert "Identity" not in ops


def test_dry_run_writes_nothing(cli):
    before = files()
    assert "nothing is written" in cli("run", "model.onnx", "--dry-run").page
    assert cli("run", "model.onnx", "-n", "--json").json["result"]["path"] is None
    assert files() == before


def test_quiet_prints_nothing(cli):
    result = cli("run", "model.onnx", "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert Path("model.opt.onnx").exists()


def test_json_is_the_report(cli):
    result = cli("run", "model.onnx", "--json", "--report", "r.json", "--threads", "2")
    assert result.json == json.loads(Path("r.json").read_text())
    assert set(result.json) >= SECTIONS
    assert result.json["latency"]["threads"] == 2
    assert [s["pass"] for s in result.json["steps"]] == ["clean", "fuse"]


def test_report_is_written_beside_text(cli):
    assert cli("run", "model.onnx", "--report", "r.json").page.endswith("wrote r.json")
    assert json.loads(Path("r.json").read_text())["proof"]["proven"]


@pytest.mark.parametrize("name", ["model.onnx", "model.opt.onnx", "."])
def test_report_must_not_replace_a_model(cli, name):
    before = Path("model.onnx").read_bytes()
    cli("run", "model.onnx", "--report", name).error(2)
    assert Path("model.onnx").read_bytes() == before
    assert not Path("model.opt.onnx").exists()


def test_unproven_is_said_first(cli):
    result = cli("run", "custom.onnx")
    assert result.out.startswith("NOT PROVEN")
    assert "not measured" in result.page
    assert Path("custom.opt.onnx").exists()


def test_proof_may_be_required(cli):
    message = cli("run", "custom.onnx", "--require-proof").error(1)
    assert "cannot be compared" in message
    assert not Path("custom.opt.onnx").exists()


def test_nothing_to_do_is_said(cli):
    cli("run", "model.onnx")
    assert "no pass found anything to do" in cli("run", "model.opt.onnx", "-n").page


@pytest.mark.usefixtures("lossy")
class TestOtherPasses:
    def test_wrong_edits_are_undone_and_named(self, cli):
        page = cli("run", "model.onnx", "--passes", "wrong", "--calib", "data.npz").page
        assert "scale@w: output 'y' is off by" in page

    def test_what_is_left_alone_is_said(self, cli):
        page = cli("run", "model.onnx", "--passes", "wrong:factor=1").page
        assert "y: it is an output (wrong:factor=1.0)" in page
        assert "weights are scaled" in page

    def test_harm_without_a_culprit_fails(self, cli):
        before = files()
        message = cli("run", "model.onnx", "--passes", "harm", "--report", "r.json").error(1)
        assert message.startswith("harm: output 'y' is off by")
        assert "no report" in message
        assert files() == before

    def test_errors_are_json_too(self, cli):
        result = cli("run", "model.onnx", "--passes", "harm", "--json")
        error = result.json["error"]
        assert (error["kind"], error["exit_code"], result.code) == ("ParityError", 1, 1)
        assert result.err == f"error: {error['message']}\n"

    def test_undone_is_not_nothing_to_do(self, cli):
        page = cli("run", "model.onnx", "--passes", "wrong", "--calib", "data.npz").page
        assert "undone" in page
        assert "anything to do" not in page

    def test_lossy_passes_need_samples(self, cli):
        assert "--calib" in cli("run", "model.onnx", "--passes", "scale").error(2)

    def test_budget(self, cli):
        args = ("run", "model.onnx", "--passes", "scale:factor=-1", "--calib", "data.npz")
        assert "falls by" in cli(*args, "--metric", "cosine").error(1)
        assert not Path("model.opt.onnx").exists()

    def test_score_is_said(self, cli):
        args = ("run", "model.onnx", "--calib", "data.npz", "--metric", "cosine", "--max-drop", "2")
        page = cli(*args, "--passes", "scale:factor=0.9").page
        assert "cosine 1.0000 on 4 samples, a drop of 0.0000 +-0.0000 (allowed: 2)." in page
        assert "not sure" not in page

    def test_what_so_few_samples_cannot_tell_is_said(self, cli):
        args = ("run", "model.onnx", "--calib", "data.npz", "--metric", "expected-accuracy")
        page = cli(*args, "--passes", "scale:factor=0.9").page
        assert (
            "not sure 4 samples cannot tell a drop below 0.7500 from none: 0.01 takes 300" in page
        )
        assert "held out, so about 1,500 given." in page
        page = cli(*args, "--passes", "scale:factor=0.9", "--max-drop", "0.001").page
        assert "0.001 takes 3,000, more than the 1,000 that are scored." in page
        page = cli(*args, "--passes", "scale:factor=0.9", "--max-drop", "0").page
        assert "from none: the mean holds 0, and no more is proven." in page

    def test_the_upper_end_of_the_interval_may_be_held_to_the_budget(self, cli):
        args = ("run", "model.onnx", "--calib", "data.npz", "--metric", "expected-accuracy")
        scale = ("--passes", "scale:factor=0.9", "--upper-bound")
        message = cli(*args, *scale).error(1)
        assert "may fall by 0.7500, the upper end of its interval on 4 held-out" in message
        assert not Path("model.opt.onnx").exists()
        proof = cli(*args, *scale, "--max-drop", "0.8", "--json").json["proof"]
        assert (proof["upper_bound"], proof["samples_needed"]) == (True, 4)


def test_recipe(cli):
    Path("r.toml").write_text('passes = "clean"')
    steps = cli("run", "model.onnx", "--passes", "@r.toml", "--json").json["steps"]
    assert [s["pass"] for s in steps] == ["clean"]


def test_external_data(cli, make):
    weights = np.ones((2000, 4), np.float32)
    make("big.onnx", "g (float[N, 2000] x) => (float[N, 4] y) { y = MatMul(x, w) }", w=weights)
    assert cli("run", "big.onnx", "--external-data").code == 0
    assert list(Path().glob("big.opt.onnx.*.data"))
    assert cli("diff", "big.onnx", "big.opt.onnx").code == 0


def test_preprocess_needs_calib(cli):
    message = cli("run", "model.onnx", "--preprocess", "imagenet").error(2)
    assert "--calib" in message

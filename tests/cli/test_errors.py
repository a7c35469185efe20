from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import api


def damaged(name: str) -> str:
    """Write a file that is no model, and return its name."""
    data = Path("model.onnx").read_bytes()
    content = {
        "text.onnx": b"hello, not a model\n" * 9,
        "random.onnx": bytes(np.random.default_rng(5).integers(0, 256, 3000, np.uint8)),
        "empty.onnx": b"",
        "short.onnx": data[: len(data) // 2],
    }
    if name in content:
        Path(name).write_bytes(content[name])
    elif name == "external.onnx":
        onnx.save(
            onnx.load("model.onnx"),
            name,
            save_as_external_data=True,
            location="gone",
            size_threshold=0,
        )
        os.remove("gone")
    elif name == "folder":
        Path(name).mkdir()
    return name


BAD = [
    "missing.onnx", "folder", "text.onnx", "random.onnx", "empty.onnx", "short.onnx",
    "external.onnx",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_models(cli, name):
    damaged(name)
    before = sorted(os.listdir())
    for command in ("run", "inspect", "bench"):
        message = cli(command, name).error(2)
        assert name in message or "gone" in message
    assert name in cli("diff", "model.onnx", name).error(2) or name == "external.onnx"
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--passes", "nope"], "there are: clean"),
        (["--passes", "clena"], "did you mean 'clean'"),
        (["--passes", "clean:foo=1"], "no option 'foo'"),
        (["--passes", ""], "no pass"),
        (["--passes", "@none.toml"], "none.toml"),
        (["--calib", "none.npz"], "none.npz"),
        (["--calib", "key.npz"], "no input 'foo'"),
        (["--calib", "shape.npz"], "shape"),
        (["--calib", "custom.onnx"], "no source of samples"),
        (["-o", "none/x.onnx"], "there is no folder none"),
        (["-o", "."], "is a directory"),
        (["--report", "none/r.json"], "there is no folder none"),
        (["--max-drop", "abc"], "not a valid number"),
        (["--max-drop", "-1"], "x>=0"),
        (["--max-drop", "nan"], "no finite number"),
        (["--threads", "0"], "1<=x<=1024"),
        (["--threads", "99999999999999999999"], "1<=x<=1024"),
        (["--seed", "-1"], "x>=0"),
        (["--target", "gpu"], "portable"),
        (["--custom-ops", "none.so"], "none.so"),
        (["--calb", "x"], "--calib"),
        (["more.onnx"], "more.onnx"),
    ],
)
def test_bad_usage_of_run(cli, args, hint):
    np.savez("key.npz", foo=np.zeros((4, 8), np.float32))
    np.savez("shape.npz", x=np.zeros((4, 9), np.float32))
    before = sorted(os.listdir())
    assert hint in cli("run", "model.onnx", *args).error(2)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["rnu"], "did you mean 'run'"),
        (["model.onnx"], "onnxopt run model.onnx"),
        (["xyzzy"], "there are: run, check"),
        (["--foo"], "--foo"),
        (["run"], "missing argument 'MODEL' (see onnxopt run --help)"),
        (["diff", "model.onnx"], "missing argument 'B'"),
        (["passes", "fsue"], "did you mean 'fuse'"),
        (["bench", "model.onnx", "--seconds", "0"], "x<=3600"),
        (["inspect", "model.onnx", "--calib", "none.npz"], "none.npz"),
        (["diff", "model.onnx", "model.onnx", "--calib", "none.npz"], "none.npz"),
        (["bench", "model.onnx", "--calib", "none.npz"], "none.npz"),
        (["bench", "custom.onnx"], "cannot load it"),
    ],
)
def test_bad_usage(cli, args, hint):
    assert hint in cli(*args).error(2)


@pytest.mark.parametrize("args", [["rnu"], ["run"], ["inspect", "none.onnx"]])
def test_errors_are_objects_for_json(cli, args):
    result = cli(*args, "--json")
    error = result.json["error"]
    assert result.code == error["exit_code"] == 2
    assert result.err == f"error: {error['message']}\n"


def test_bugs_keep_their_traceback(cli, monkeypatch):
    def broken(*args, **words):
        raise ZeroDivisionError

    monkeypatch.setattr(api, "optimize", broken)
    with pytest.raises(ZeroDivisionError):
        cli("run", "model.onnx")


def test_interrupt_is_one_line(cli, monkeypatch):
    def interrupted(*args, **words):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "optimize", interrupted)
    assert cli("run", "model.onnx").error(130) == "interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_real_interrupt_leaves_nothing_behind():
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from onnxopt import latency\n"
        "from onnxopt.cli import main\n"
        "latency.measure = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "main(['run', 'model.onnx'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    assert sorted(os.listdir()) == ["custom.onnx", "data.npz", "model.onnx"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_closed_pipe_is_quiet():
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxopt", "inspect", "model.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stderr:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_strange_names_stay_on_one_line(cli):
    message = cli("run", "a\nb\x1b[31m.onnx").error(2)
    assert "\x1b" not in message
    assert "does not exist" in message


def test_a_wrong_folder_is_said_of_the_model_and_not_of_the_result(cli):
    assert cli("run", "modles/net.onnx").error(2) == "modles/net.onnx does not exist"

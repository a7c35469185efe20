"""The hooks, as pre-commit runs them in a git repository.

pre-commit installs hooks of `language: python` with pip into an environment of their own, which
takes minutes and a network. Here the hooks keep all that `.pre-commit-hooks.yaml` says of them but
that one word, and run with what is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

ROOT = Path(__file__).parent.parent.parent
HOOKS = (ROOT / ".pre-commit-hooks.yaml").read_text()
HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def write(path: Path, body: str) -> None:
    model = parser.parse_model(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {body} }}")
    weight = np.eye(8, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with three models, one broken, one with waste."""
    write(tmp_path / "models" / "good.onnx", "y = MatMul(x, w)")
    write(tmp_path / "models" / "waste.onnx", "a = Identity(x) y = MatMul(a, w)")
    write(tmp_path / "models" / "broken.onnx", "y = MatMul(xx, w)")
    hooks = HOOKS.replace("language: python", "language: system")
    hooks = hooks.replace("entry: onnxopt ", f"entry: {sys.executable} -m onnxopt ")
    local = "".join(f"  {line}\n" for line in hooks.splitlines())
    config = f"repos:\n- repo: local\n  hooks:\n{local}"
    (tmp_path / ".pre-commit-config.yaml").write_text(config)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    return tmp_path


def git(folder: Path, *args: str) -> None:
    subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True)


def run(folder: Path, hook: str) -> tuple[int, str]:
    home = {"PRE_COMMIT_HOME": str(folder / ".cache"), "HOME": str(folder)}
    command = [sys.executable, "-m", "pre_commit", "run", hook, "--all-files", "--color=never"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | home, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_check_stops_a_commit_and_says_why(project: Path) -> None:
    code, said = run(project, "onnxopt-check")
    assert code == 1
    assert "broken.onnx: OPT006 y: input 0 of this MatMul is 'xx', which nothing produces" in said
    assert "waste.onnx: OPT206 [*] " in said
    write(project / "models" / "broken.onnx", "y = MatMul(x, w)")
    write(project / "models" / "waste.onnx", "y = MatMul(x, w)")
    code, said = run(project, "onnxopt-check")
    assert (code, "Passed" in said) == (0, True), said


def test_the_fix_mends_and_lets_through_the_second_time(project: Path) -> None:
    git(project, "rm", "-q", "--cached", "models/broken.onnx")
    code, said = run(project, "onnxopt-fix")
    assert code == 1
    assert "files were modified by this hook" in said
    assert "waste.onnx: mended, 1 edit, proven" in said
    git(project, "add", "models/waste.onnx")
    code, said = run(project, "onnxopt-fix")
    assert (code, "Passed" in said) == (0, True), said


def test_the_hooks_match_what_pre_commit_asks_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "hooks.yaml").write_text(HOOKS)
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", "hooks.yaml"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

"""What the README says is what happens."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from onnxopt.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()

RUN, INSTALL = (block.strip() for block in re.findall(r"```sh\n(python3 .*?)```", README, re.S))


def test_ci_calls_exactly_the_test_command_of_the_readme() -> None:
    steps = INSTALL.split(" && ")
    install = next(s for s in steps if s.startswith("pip install"))
    assert steps[-1].startswith("pytest")
    assert f"\n{install}\n" in CI
    assert CI.rstrip().endswith(f"\n{steps[-1]}")


def test_the_run_of_the_readme_gives_the_output_of_the_readme(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    command = RUN.split(" && ")[-1].replace(".venv/bin/onnxopt", f"{sys.executable} -m onnxopt")
    found = subprocess.run(
        command.split(), cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    shown = re.search(r"```text\n(.*?)```", README, re.S)
    assert shown is not None
    assert _stable(found) == _stable(shown[1])


def _stable(text: str) -> list[str]:
    """Return what does not depend on the machine: no times, no rounding."""
    lines = [line for line in text.strip().splitlines() if "latency" not in line]
    bare = [re.sub(r"[\d.]+ (ms|s|us)$|[\d.]+e-\d+", "", line) for line in lines]
    return [" ".join(line.split()) for line in bare]


def test_every_option_that_the_readme_names_exists() -> None:
    known = {name: _options(name) for name in COMMANDS}
    for line in README.splitlines():
        command = re.match(r"onnxopt (\w+)", line)
        if command is not None and command[1] in known:
            named = set(re.findall(r"--[a-z-]+", line))
            assert named <= known[command[1]], line
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert named <= set().union(*known.values())


def _options(name: str) -> set[str]:
    command = import_module(f"onnxopt.cli.{name}").command
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)}


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_models_are_those_of_their_readme() -> None:
    check = [sys.executable, str(ROOT / "models" / "make.py"), "--check"]
    subprocess.run(check, check=True, capture_output=True)

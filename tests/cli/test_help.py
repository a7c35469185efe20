from __future__ import annotations

import re
import subprocess
import sys

import pytest

from onnxopt import __version__, api
from onnxopt.cli import COMMANDS, options

HEAVY = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "rich")


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys\n"
        "from onnxopt.cli import main\n"
        f"main({args!r}, prog_name='onnxopt', standalone_mode=False)\n"
        f"print(*(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "onnxopt" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_has_an_example(cli, command):
    page = cli(command, "--help").page
    assert f"Examples: onnxopt {command}" in page


def test_help_lists_all_commands(cli):
    result = cli("--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S", result.out, re.M)
    assert "..." not in result.out.partition("Commands:")[2]
    assert cli().out == result.out


def test_version(cli):
    assert cli("--version").out == f"onnxopt {__version__}\n"


def test_module_runs():
    command = [sys.executable, "-m", "onnxopt", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"onnxopt {__version__}\n"


def test_targets_are_those_of_the_engine():
    assert options.TARGETS == api.TARGETS

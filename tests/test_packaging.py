"""What is installed is what pyproject.toml declares, and the public face is complete."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import onnxopt
from onnxopt import registry

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_installed_passes_are_those_of_pyproject() -> None:
    table = PYPROJECT.partition('[project.entry-points."onnxopt.passes"]')[2].partition("\n\n")[0]
    declared = dict(re.findall(r'^(\w+) = "(.+)"$', table, re.M))
    installed = {
        e.name: e.value
        for e in entry_points(group=registry.GROUP)
        if e.dist is not None and e.dist.name == "onnxopt"
    }
    assert installed == declared, "pyproject.toml changed: run pip install -e . again"


def test_a_third_party_pass_is_found_as_ours_are() -> None:
    entry = registry.available()["square"]
    assert entry.dist is not None
    assert entry.dist.name == "onnxopt-plugin"
    assert registry.load("square").name == "square"


@pytest.mark.parametrize("name", sorted(registry.available()))
def test_every_pass_explains_itself(name: str) -> None:
    cls = registry.load(name)
    assert cls.__doc__
    assert cls.__doc__.splitlines()[0].endswith(".")


def test_the_public_face() -> None:
    assert onnxopt.__all__ == sorted(onnxopt.__all__)
    for name in onnxopt.__all__:
        assert getattr(onnxopt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = onnxopt.nothing


def test_importing_onnxopt_imports_nothing_heavy() -> None:
    heavy = ("onnx", "numpy", "onnxruntime")
    code = f"import sys, onnxopt; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_runtime_is_imported_only_when_it_runs() -> None:
    code = "import sys, onnxopt.api; print('onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

from onnxopt import registry
from onnxopt.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSES = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from onnxopt.base import Pass


@dataclass(frozen=True)
class Scale(Pass):
    """Scale all weights, which is no good.

    Some more about it.

    Attributes:
        factor: By how much; 1 is
            harmless.
        kinds: What to scale.
    """

    name: ClassVar[str] = "scale"
    exact: ClassVar[bool] = False
    factor: float = 0.5
    kinds: tuple[str, ...] = ("a", "b")

    def run(self, model, ctx):
        edits = 0
        for c in model.graph.initializers:
            if c.values.dtype.kind == "f" and ctx.allow(f"scale@{c.name}"):
                c.values = (c.values * self.factor).astype(c.values.dtype)
                edits += 1
        ctx.untouched["y"] = "it is an output"
        ctx.notes.append("weights are scaled")
        return edits


@dataclass(frozen=True)
class Wrong(Scale):
    """Scale all weights, and call that exact."""

    name: ClassVar[str] = "wrong"
    exact: ClassVar[bool] = True


@dataclass(frozen=True)
class Rude(Pass):
    name: ClassVar[str] = "rude"
    calibrated: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("scale",)

    def run(self, model, ctx):
        return 0


@dataclass(frozen=True)
class Spoil(Pass):
    """Turn all signs without asking first."""

    name: ClassVar[str] = "spoil"
    exact: ClassVar[bool] = False

    def run(self, model, ctx):
        for c in model.graph.initializers:
            c.values = -c.values
        return 1


@dataclass(frozen=True)
class Harm(Pass):
    """Change weights without asking first."""

    name: ClassVar[str] = "harm"

    def run(self, model, ctx):
        for c in model.graph.initializers:
            c.values = c.values + 1
        return 1
'''


def build(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Parse a model, `<...>` in front of its graph, and add initializers."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "my" : 1]> {text}')
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def linear() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return build(
        "g (float[N, 8] x) => (float[N, 4] y) {"
        " same = Identity(x) mixed = MatMul(same, w) sum = Add(mixed, b) y = Relu(sum) }",
        w=rng.standard_normal((8, 4)).astype(np.float32),
        b=np.ones(4, np.float32),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `model.onnx`, `custom.onnx` and `data.npz` in it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(linear(), "model.onnx")
    onnx.save(build("g (float[2] x) => (float[2] y) { y = my.Unknown(x) }"), "custom.onnx")
    rng = np.random.default_rng(1)
    np.savez("data.npz", x=rng.standard_normal((20, 8)).astype(np.float32))
    return tmp_path


@pytest.fixture
def lossy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More passes: `scale`, `spoil` (lossy), `wrong`, `harm` (exact, they say), `rude`."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "passes_of_the_tests.py").write_text(PASSES)
    monkeypatch.syspath_prepend(home)
    found = registry.available()
    for name in ("scale", "wrong", "rude", "harm", "spoil"):
        value = f"passes_of_the_tests:{name.capitalize()}"
        found[name] = EntryPoint(name, value, registry.GROUP)
    monkeypatch.setattr(registry, "available", lambda: found)


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def error(self, code: int) -> str:
        """Return the error, which is one line on stderr and nothing on stdout."""
        assert self.code == code
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").rstrip()

    @property
    def page(self) -> str:
        """Return the text of a run that went well; it fits into 80 columns."""
        assert self.err == ""
        assert max(map(len, self.out.splitlines())) <= 80
        assert "\x1b" not in self.out
        return " ".join(self.out.split())


@pytest.fixture
def cli() -> Callable[..., Outcome]:
    """Run the command line in this process; what is no error on purpose is raised."""

    def run(*args: str) -> Outcome:
        result = CliRunner().invoke(main, args)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def make() -> Callable[..., None]:
    """Write a model: its graph as text, its weights by name."""

    def write(path: str, text: str, **weights: np.ndarray) -> None:
        onnx.save(build(text, **weights), path)

    return write

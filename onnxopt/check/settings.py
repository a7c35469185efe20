"""What `[tool.onnxopt]` in pyproject.toml asks of the models of a project.

[tool.onnxopt]
ignore = ["OPT104"]            # codes, or beginnings of codes
max-bytes = "5 MB"
banned-ops = ["NonZero", "com.microsoft.*"]

[tool.onnxopt.per-file-ignores]
"legacy/*.onnx" = ["OPT2"]

[tool.onnxopt.per-file-budgets."detector.onnx"]
max-bytes = "20 MB"
"""

from __future__ import annotations

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from onnxopt.errors import SpecError

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Budgets:
    """What models are held to; None and empty where nothing is asked.

    Attributes:
        max_bytes: Size, external data included.
        max_params: Parameters.
        max_macs: Multiply-accumulates for one input.
        max_latency_ratio: Latency over that of `baseline`.
        baseline: A model file, relative to pyproject.toml.
        min_opset: The oldest opset.
        max_opset: The newest opset.
        banned_ops: Ops by name, those of other domains as `domain.Op` or `domain.*`.
        required_metadata: Keys of `metadata_props`.
    """

    max_bytes: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ratio: float | None = None
    baseline: str | None = None
    min_opset: int | None = None
    max_opset: int | None = None
    banned_ops: tuple[str, ...] = ()
    required_metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How to check the models of a project.

    Attributes:
        root: What patterns of files and the baseline are relative to.
        select: Beginnings of codes to look for; empty means all.
        ignore: Beginnings of codes to leave out.
        per_file_ignores: Pattern of files -> beginnings of codes.
        per_file_budgets: Pattern of files -> budgets that replace those of the project.
        runtime: Whether rules that need onnxruntime run.
        budgets: What all models are held to.
    """

    root: Path = field(default_factory=Path)
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: dict[str, tuple[str, ...]] = field(default_factory=dict)
    per_file_budgets: dict[str, dict[str, Any]] = field(default_factory=dict)
    runtime: bool = False
    budgets: Budgets = field(default_factory=Budgets)

    def ignored(self, path: Path) -> tuple[str, ...]:
        """Return the beginnings of codes that are left out for a file."""
        own = [codes for p, codes in self.per_file_ignores.items() if self._matches(path, p)]
        return (*self.ignore, *(code for codes in own for code in codes))

    def budgets_for(self, path: Path) -> Budgets:
        """Return what a file is held to; of several patterns that fit, later ones win."""
        found = self.budgets
        for pattern, values in self.per_file_budgets.items():
            if self._matches(path, pattern):
                found = dataclasses.replace(found, **values)
        return found

    def _matches(self, path: Path, pattern: str) -> bool:
        absolute = path.resolve()
        root = self.root.resolve()
        inside = absolute.is_relative_to(root)
        relative = absolute.relative_to(root).as_posix() if inside else absolute.as_posix()
        return fnmatch(relative, pattern) or fnmatch(absolute.name, pattern)


def find(start: Path) -> Path | None:
    """Return the nearest pyproject.toml upwards that has a `[tool.onnxopt]` table."""
    for folder in (start.resolve(), *start.resolve().parents):
        path = folder / "pyproject.toml"
        if path.is_file() and _mentions(path) and "onnxopt" in _toml(path).get("tool", {}):
            return path
    return None


def _mentions(path: Path) -> bool:
    """Whether a file is worth parsing, which takes longer than reading it."""
    try:
        return b"onnxopt" in path.read_bytes()
    except OSError:
        return True  # parsing says what is wrong


def read(path: Path) -> Settings:
    """Read the `[tool.onnxopt]` table of a file.

    Raises:
        SpecError: It is no TOML, a key is unknown, or a value is of the wrong kind.
    """
    if not path.is_file():
        raise SpecError(f"there is no settings file {path}")
    table = _toml(path).get("tool", {}).get("onnxopt", {})
    own: dict[str, Any] = {"root": path.parent}
    budgets: dict[str, Any] = {}
    names = [f.name for f in dataclasses.fields(Settings) if f.name not in ("root", "budgets")]
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in BUDGETS:
            budgets[name] = budget(name, value, f"{path}: {key}")
        elif name in names:
            own[name] = _setting(name, value, f"{path}: {key}")
        else:
            raise SpecError(f"{path}: [tool.onnxopt] has no key {key!r}{_near(key, names)}")
    if budgets.get("baseline"):
        budgets["baseline"] = str(path.parent / budgets["baseline"])
    return Settings(**own, budgets=Budgets(**budgets))


def budget(name: str, value: Any, where: str) -> Any:
    """Convert one budget: `5 MB` to 5000000, a list to a tuple.

    Raises:
        SpecError: It is of the wrong kind.
    """
    if name in ("banned_ops", "required_metadata"):
        return _texts(value, where)
    if name == "baseline":
        if not isinstance(value, str):
            raise SpecError(f"{where} must be the path of a model")
        return value
    if name == "max_latency_ratio":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise SpecError(f"{where} must be a number above 0, such as 1.1")
        return float(value)
    return count(value, where)


def count(value: Any, where: str) -> int:
    """Read a number with a unit: `5 MB`, `1.5 M`, 300000.

    Raises:
        SpecError: It is no such number.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"([\d_,]*\.?\d+)\s*([A-Za-z]*)", str(value).strip())
    if isinstance(value, str) and match is not None and match[2] in UNITS:
        return int(float(match[1].replace(",", "").replace("_", "")) * UNITS[match[2]])
    raise SpecError(f"{where} must be a number such as 300000, '1.5 M' or '5 MB', not {value!r}")


def _setting(name: str, value: Any, where: str) -> Any:
    if name == "runtime":
        if not isinstance(value, bool):
            raise SpecError(f"{where} must be true or false")
        return value
    if name in ("select", "ignore"):
        return _texts(value, where)
    if not isinstance(value, dict):
        raise SpecError(f"{where} must be a table: a pattern of files = what holds for them")
    if name == "per_file_ignores":
        return {p: _texts(codes, f"{where}: {p}") for p, codes in value.items()}
    return {p: _file_budgets(table, f"{where}: {p}") for p, table in value.items()}


def _file_budgets(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise SpecError(f"{where} must be a table of budgets")
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in BUDGETS:
            raise SpecError(f"{where}: there is no budget {key!r}{_near(key, [])}")
        found[name] = budget(name, value, f"{where}: {key}")
    return found


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise SpecError(f"{where} must be a list of texts")
    return tuple(value)


def _near(key: str, names: list[str]) -> str:
    known = [n.replace("_", "-") for n in (*names, *BUDGETS)]
    found = get_close_matches(key, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; it has: {', '.join(known)}"


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return found
    except OSError as e:
        raise SpecError(f"{path} cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SpecError(f"{path} is not TOML: {e}") from e


BUDGETS = tuple(f.name for f in dataclasses.fields(Budgets))

"""Check files: read each once, let the chosen rules look at it, never fall over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.check import rules
from onnxopt.check.finding import Finding, Level, Rule
from onnxopt.check.subject import Subject
from onnxopt.errors import ModelError, OnnxoptError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onnxopt.check.settings import Settings

SUFFIX = ".onnx"

SKIPPED = ("node_modules", "__pycache__", "site-packages")
"""Folders that are not the project's own."""

LFS = b"version https://git-lfs.github.com/spec/"


def broken_rule(subject: Subject) -> Iterator[tuple[str, str]]:
    """A rule of onnxopt failed on this model.

    That is a bug of onnxopt, not of the model: please report it, with the model if you can. All
    other rules were checked.
    """
    yield from ()  # the driver reports it


BROKEN = Rule("OPT000", Level.ERROR, broken_rule)


def models(paths: Sequence[Path]) -> list[Path]:
    """Return the files to check: those named, and all `.onnx` files in the folders named.

    Raises:
        SpecError: A path does not exist, or there is nothing to check.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(_inside(path)))
        elif path.exists():
            found[path] = None
        else:
            raise SpecError(f"there is no file {path}")
    if not found:
        raise SpecError(f"no {SUFFIX} file is in {', '.join(map(str, paths))}")
    return list(found)


def _inside(folder: Path) -> Iterator[Path]:
    for home, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED)
        yield from (Path(home) / n for n in sorted(names) if n.endswith(SUFFIX))


def check(path: Path, settings: Settings) -> list[Finding]:
    """Return what the chosen rules find in a file, in the order of their codes.

    Raises:
        SpecError: The settings contradict each other.
    """
    chosen = rules.chosen(settings.select, settings.ignored(path), settings.runtime)
    unreadable = next(r for r in rules.RULES if r.code == "OPT001")
    try:
        subject = Subject(path, settings.budgets_for(path))
    except (ModelError, OSError) as e:
        return [Finding(unreadable, str(path), "", _unreadable(path, str(e)))]
    return [f for rule in chosen for f in _look(rule, subject, str(path))]


def _look(rule: Rule, subject: Subject, path: str) -> Iterable[Finding]:
    try:
        return [Finding(rule, path, where, _line(what)) for where, what in rule.find(subject)]
    except SpecError:
        raise
    except OnnxoptError as e:
        return [Finding(rule, path, "", _line(str(e)))]
    except Exception as e:  # noqa: BLE001  # files may hold anything; a bug of ours is said aloud
        said = f"rule {rule.code} fails on this model: {type(e).__name__}: {e}"
        return [Finding(BROKEN, path, "", _line(said))]


def _unreadable(path: Path, said: str) -> str:
    """Return why a file cannot be read, without its name in front."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(LFS)) == LFS:
                    return "a Git LFS pointer, not the model itself: run git lfs pull"
    except OSError:
        pass
    said = _line(said)
    said = said.removeprefix(f"{path} ").removeprefix(f"{path}: ").replace(str(path), path.name)
    return f"{said}; fetch it again, or export it again"


def _line(text: str) -> str:
    return " ".join(text.split())

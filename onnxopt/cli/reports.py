"""Files that reports are kept in: JSON, or a page where the name ends in `.html`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from onnxopt.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

PAGES = (".html", ".htm")


def check(path: Path, *models: Path) -> None:
    """Refuse before any work a report that could not be written, or would replace a file.

    Args:
        path: Where the report goes.
        models: What it must not replace.

    Raises:
        OutputError: It cannot be written there.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a directory; give the name of a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    if path.resolve() in [m.resolve() for m in models]:
        raise OutputError(f"the report would replace {path}; give it another name")


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the report of a run.

    Raises:
        OutputError: It cannot be written there.
    """
    if path.suffix.lower() in PAGES:
        from onnxopt.cli.page import render_report

        write_text(path, render_report(found))
    else:
        write_text(path, json.dumps(found, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: It cannot be written there.
    """
    from onnxopt.model import files

    with files.atomic(path) as file:
        file.write(text.encode())

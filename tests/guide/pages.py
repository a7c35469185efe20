"""Runs the pages of the guide: their commands, their Python, and compares what they print.

    python tests/guide/pages.py     writes outputs and the table of rules anew

Blocks: `sh` is run line by line and has to succeed; `console` has outputs behind its `$ ` lines;
`python` is run in one namespace a page; `toml` is written to `pyproject.toml` if it has a table
for tools, else to `recipe.toml`. Of other commands than onnxopt only those of `SHOWN` may occur;
they are not run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from onnxopt.check.rules import GROUPS, RULES
from onnxopt.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "adr" not in p.parts)

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
TABLE = re.compile(r"(<!-- rules -->\n).*?(\Z|(?=<!-- end of rules -->))", re.S)
SHOWN = ("pip install ",)
TIMED = "--max-latency-ratio"
"""What times models may fail on a busy machine: such a line need not succeed, only not be wrong."""

FRAMEWORKS = ("torch", "skl2onnx", "sklearn", "keras")


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        kind: Its language.
        text: What stands in it.
    """

    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [Block(kind, text) for kind, text in BLOCK.findall(page)]


def missing(page: str) -> list[str]:
    """Return the frameworks that a page imports and that are not installed."""
    code = "\n".join(b.text for b in blocks(page) if b.kind == "python")
    named = [n for n in FRAMEWORKS if re.search(rf"^(?:import|from) {n}\b", code, re.M)]
    return [n for n in named if importlib.util.find_spec(n) is None]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Work in a folder of its own that has the models in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as home:
        shutil.copytree(ROOT / "models", Path(home) / "models")
        os.chdir(home)
        try:
            yield Path(home)
        finally:
            os.chdir(before)


def run(page: str) -> list[str]:
    """Run all blocks of a page; return what its `console` blocks print, a text a block.

    Raises:
        AssertionError: A command or a snippet fails.
    """
    printed: list[str] = []
    names: dict[str, Any] = {"__name__": "page"}
    with folder() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # frameworks warn of their own future
        for block in blocks(page):
            if block.kind == "sh":
                for line in block.text.splitlines():
                    _succeed(line)
            elif block.kind == "console":
                lines = [ln for ln in block.text.splitlines() if ln.startswith("$ ")]
                printed.append("".join(f"{ln}\n{_call(ln[2:])[1].rstrip()}\n" for ln in lines))
            elif block.kind == "python":
                with contextlib.redirect_stdout(None):
                    exec(compile(block.text, "page", "exec"), names)
            elif block.kind == "toml":
                name = "pyproject.toml" if "[tool." in block.text else "recipe.toml"
                (home / name).write_text(block.text)
    return printed


def _succeed(line: str) -> None:
    if line.startswith(SHOWN):
        return
    code, said = _call(line)
    allowed = (0, 1) if TIMED in line else (0,)
    assert code in allowed, f"{line}: {said}"


def _call(line: str) -> tuple[int, str]:
    words = shlex.split(line)
    assert words[0] == "onnxopt", f"not a command of this guide: {line}"
    done = CliRunner().invoke(main, words[1:])
    return done.exit_code, done.output


def rules() -> str:
    """Return the tables of rules, a table a group."""
    lines = []
    for group, name in GROUPS.items():
        lines += [
            "",
            f"**{group}xx, {name}**",
            "",
            "| code | level | what it finds |",
            "|---|---|---|",
        ]
        for rule in (r for r in RULES if r.code.startswith(group)):
            mark = " `[*]`" if rule.fixable else ""
            lines.append(f"| {rule.code} `{rule.name}` | {rule.level.value}{mark} | {rule.title} |")
    return "\n".join([*lines, ""])


def refreshed(page: str) -> str:
    """Return a page with outputs and the table of rules as they are now."""
    outputs = iter(run(page))

    def replaced(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        return f"```console\n{next(outputs)}```"

    return TABLE.sub(lambda m: m[1] + rules() + m[2], BLOCK.sub(replaced, page))


if __name__ == "__main__":
    for path in PAGES:
        text = path.read_text()
        if not missing(text):
            path.write_text(refreshed(text))

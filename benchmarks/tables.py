"""Markdown tables, and a line that says where figures were measured."""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PACKAGES = ("onnxopt", "onnx", "onnxruntime", "onnxslim", "onnxsim", "onnxscript", "numpy")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a markdown table, numbers to the right."""
    lines = [list(head), ["---", *("---:" for _ in head[1:])]]
    lines += [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = 3) -> str:
    """Render a number with so many digits that count; nothing where there is none."""
    if math.isnan(value):
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"


def progress(*words: object) -> None:
    """Say what is being measured, where it does not get into a table."""
    print(*words, file=sys.stderr, flush=True)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of those values that are numbers."""
    found = [v for v in values if not math.isnan(v)]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan


def environment() -> str:
    """Name processor, systems and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}, {_processor()}, "
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; "
        f"{versions}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

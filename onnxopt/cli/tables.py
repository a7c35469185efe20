"""Numbers with units, and tables without lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from onnxopt.cli.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

UNKNOWN = "-"


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> str:
    """Return a number with three significant digits and the largest unit that it fills."""
    size, unit = next((s for s in steps if abs(value) >= 0.9995 * s[0]), steps[-1])
    shown = value / size
    digits = 2 if abs(shown) < 9.995 else 1 if abs(shown) < 99.95 else 0
    return f"{shown:.{digits}f} {unit}".rstrip()


def nbytes(count: float | None) -> str:
    """Return a size: `640 B`, `1.11 MB`."""
    if count is None:
        return UNKNOWN
    if abs(count) < 1000:
        return f"{count:.0f} B"
    return _scaled(count, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def number(count: float | None) -> str:
    """Return a count: `272`, `9,408`, `40.8 M`."""
    if count is None:
        return UNKNOWN
    if abs(count) < 1e5:
        return f"{count:,}"
    return _scaled(count, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")))


def seconds(value: float | None) -> str:
    """Return a time: `4.20 s`, `2.31 ms`, `31.2 us`."""
    if value is None:
        return UNKNOWN
    return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def drift(value: float | None) -> str:
    """Return a drift: `2.1e-07`, `0`."""
    if value is None:
        return UNKNOWN
    return "0" if value == 0 else f"{value:.1e}"


def change(before: float | None, after: float | None) -> str:
    """Return by how much a number changed: `-12.3%`, or `same`."""
    if before is None or after is None:
        return UNKNOWN
    if before == after:
        return "same"
    if not before:
        return "new"
    percent = 100 * (after / before - 1)
    if abs(percent) < 0.05:
        return f"{'+' if percent > 0 else '-'}0.0%"
    return f"{percent:+.1f}%"


def signed(count: int) -> str:
    """Return a difference: `+3`, `-31`, `0`."""
    return f"{count:+,}" if count else "0"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun: `1 sample`, `8 samples`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def table(*columns: str, rows: Iterable[Sequence[str]]) -> Table:
    """Return a table; a column whose name starts with `>` is flush right and never wrapped."""
    from rich.table import Table

    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        found.add_column(
            column.lstrip(">"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    for row in rows:
        found.add_row(*map(_cell, row))
    return found


def facts(pairs: Mapping[str, str | Sequence[str]], style: str = "") -> Table | None:
    """Return labels and what they say, a line each; None if nothing is said."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    found.add_column(min_width=10, no_wrap=True, style="bold")
    found.add_column(overflow="fold")
    for label, said in pairs.items():
        lines = [said] if isinstance(said, str) else list(said)
        for i, line in enumerate(line for line in lines if line):
            found.add_row("" if i else label, Text(plain(line), style=style))
    return found if found.row_count else None


def pieces(words: Iterable[tuple[str, int]]) -> str:
    """Return names with their counts on one line: `Conv 21, Relu 19`."""
    return ", ".join(f"{name} {count:,}" for name, count in words)


def first(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, and how many more there are."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"and {len(lines) - most + 1} more; --json lists them all"]


def finite(value: float) -> float | None:
    """Return a number that JSON can carry; None for NaN and infinity."""
    return value if math.isfinite(value) else None


def shape(dims: Any) -> str:
    """Return a shape: `1x3x224x224`, `scalar`."""
    return "x".join("?" if d is None else str(d) for d in dims) or "scalar"


def _cell(text: str) -> Any:
    from rich.text import Text

    return Text(plain(text))

"""Bar charts as plain SVG, readable by screen readers and without colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

WIDTH = 560
LABEL = 150
VALUE = 90
ROW = 24
BAR = 14


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: On its left.
        value: Its length; None draws none.
        text: On its right.
        whole: Length of the pale bar behind it; None for none.
        kind: Its colour: `before`, `after` or `plain`.
    """

    label: str
    value: float | None
    text: str
    whole: float | None = None
    kind: str = "plain"


def bars(title: str, rows: Sequence[Bar], log: bool = False) -> Markup:
    """Return a chart of horizontal bars.

    Args:
        title: What it shows, read out by screen readers.
        rows: From top to bottom.
        log: Whether lengths are logarithms, from a hundredth of the smallest value on.
    """
    from markupsafe import Markup, escape

    most = max((max(r.value or 0, r.whole or 0) for r in rows), default=0)
    least = min((r.value for r in rows if r.value), default=1)
    room = WIDTH - LABEL - VALUE
    parts = []
    for number, row in enumerate(rows):
        top = number * ROW
        middle = top + ROW / 2
        parts.append(_words(_short(row.label), LABEL - 8, middle, "end"))
        if row.whole is not None:
            parts.append(_bar("whole", room * _length(row.whole, most, least, log), top))
        if row.value is not None:
            parts.append(_bar(row.kind, room * _length(row.value, most, least, log), top))
        parts.append(_words(row.text, WIDTH - VALUE + 6, middle, "start"))
    spoken = escape("; ".join(f"{r.label}: {r.text}" for r in rows))
    height = max(1, len(rows)) * ROW
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{escape(title)}: {spoken}</title>{''.join(parts)}</svg>"
    )


def _length(value: float, most: float, least: float, log: bool) -> float:
    """Return the length of a bar, as a part of the longest."""
    if value <= 0 or most <= 0:
        return 0.0
    if log:
        floor = least / 100
        return math.log(value / floor) / math.log(most / floor)
    return value / most


def _bar(kind: str, length: float, top: float) -> str:
    y = top + (ROW - BAR) / 2
    return (
        f'<rect class="{kind}" x="{LABEL}" y="{y:g}" width="{length:.1f}" height="{BAR}" rx="2"/>'
    )


def _words(text: str, x: float, y: float, anchor: str) -> str:
    from markupsafe import escape

    return f'<text x="{x:g}" y="{y + 4:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, most: int = 19) -> str:
    """Return the end of a long name: layers differ there."""
    return text if len(text) <= most else f"…{text[1 - most :]}"

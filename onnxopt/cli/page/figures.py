"""Figures of the page: each carries the place in the JSON that it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt.cli import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup


def _ms(value: float | None) -> str:
    return tables.UNKNOWN if value is None else tables.seconds(value / 1e3)


def _score(value: float | None) -> str:
    return tables.UNKNOWN if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return tables.UNKNOWN if value is None else f"{100 * value:.1f}%"


def _text(value: object) -> str:
    return tables.UNKNOWN if value is None else str(value)


FORMS: dict[str, Callable[[Any], str]] = {
    "nbytes": tables.nbytes,
    "number": tables.number,
    "ms": _ms,
    "seconds": tables.seconds,
    "drift": tables.drift,
    "score": _score,
    "percent": _percent,
    "shape": tables.shape,
    "text": _text,
}
"""How a figure is written, by name."""


def lookup(found: Any, path: str) -> Any:
    """Return what stands in JSON at a path such as `steps.0.bytes`."""
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


class Figures:
    """Writes figures of a report.

    Args:
        found: The JSON.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def __call__(self, path: str, form: str = "number") -> Markup:
        """Return a figure as HTML that says where it comes from."""
        from markupsafe import Markup

        value = lookup(self.found, path)
        return Markup('<span class="fig" data-key="{}" data-form="{}" title="{}">{}</span>').format(
            path, form, "unknown" if value is None else value, FORMS[form](value)
        )

"""What each node costs and gives in integers, as `onnxopt inspect --sensitivity` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt.cli import tables

if TYPE_CHECKING:
    from rich.console import RenderableType

LISTED = 40
"""Nodes listed; JSON has them all."""


def page(found: dict[str, Any]) -> list[RenderableType | str | None]:
    """Return the nodes by price, what is not able, and how to read it."""
    nodes, floats = found["nodes"], found["floats"]
    return [
        tables.facts(
            {
                "mode": f"{found['mode']}: {found['why']}",
                "measured": f"{tables.plural(len(nodes), 'node')}, each quantized alone, on"
                f" {tables.plural(found['samples'], 'sample')} that no range was fitted to",
                "error": "relative, root mean square, of the model's outputs",
                "price": "share of all squared error over share of what integers save; far"
                " above 1: better left in float",
            }
        ),
        _table(nodes[:LISTED]) if nodes else "nothing can be quantized",
        f"and {len(nodes) - LISTED} more; --json lists them all" if len(nodes) > LISTED else None,
        tables.facts({"not able": tables.first([f"{n}: {w}" for n, w in floats.items()], 8)}),
    ]


def _table(nodes: list[dict[str, Any]]) -> RenderableType:
    rows = [[n["name"], n["op"], error(n["error"]), *_saved(n), price(n["price"])] for n in nodes]
    return tables.table("node", "op", ">error", ">saved time", ">saved size", ">price", rows=rows)


def error(value: float | None) -> str:
    """Return a relative error: `0.12%`; `fails` where the model does not run, or gives NaN."""
    return "fails" if value is None else f"{value:.2g}" if value >= 10 else f"{value:.2%}"


def price(value: float | None) -> str:
    """Return a price: `0.31`, `24`; `-` where nothing is won."""
    return tables.UNKNOWN if value is None else f"{value:.2g}"


def _saved(node: dict[str, Any]) -> tuple[str, str]:
    micro = node["microseconds"]
    return tables.seconds(None if micro is None else micro / 1e6), tables.nbytes(node["bytes"])

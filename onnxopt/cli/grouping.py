"""Groups of indices that go together, as `onnxopt inspect --groups` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt.cli import tables

if TYPE_CHECKING:
    from rich.console import RenderableType


def page(found: dict[str, Any]) -> list[RenderableType | None]:
    """Return what can be cut, what cannot and why, and how far pruning reaches."""
    groups = found["groups"]
    free = [g for g in groups if g["frozen"] is None]
    frozen = [g for g in groups if g["frozen"] is not None]
    return [
        tables.facts(
            {
                "groups": f"{len(free)} that can be cut, {len(frozen)} frozen",
                "reach": _reach(found),
                "no rule for": ", ".join(found["unknown"]),
            }
        ),
        tables.table(
            "group",
            ">size",
            ">weights",
            "kind",
            rows=[[g["name"], str(g["size"]), str(len(g["members"])), _kind(g)] for g in free],
        )
        if free
        else None,
        tables.table(
            "frozen",
            ">size",
            "why",
            rows=[[g["name"], str(g["size"]), g["frozen"]] for g in frozen],
        )
        if frozen
        else None,
    ]


def _reach(found: dict[str, Any]) -> str:
    """Say how much goes at most."""
    reach = f"{found['reach_params']:.1%} of the parameters"
    macs = found["reach_macs"]
    return reach if macs is None else f"{reach}, {macs:.1%} of the MACs"


def _kind(group: dict[str, Any]) -> str:
    return "width within heads" if group["heads"] else "channels"

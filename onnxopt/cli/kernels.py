"""Which kernels take the time of one or two models, side by side."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from onnxopt.cli import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from onnxopt.model import Exported
    from onnxopt.runtime import Settings

    Facts = dict[str, Any]

TOP = 8
"""Kernels of each model that are listed."""

OPS = 12
"""Operators that are listed."""


def measure(models: Sequence[Exported], feed: Facts, settings: Settings) -> list[list[Facts]]:
    """Profile models on one input; return the kernels of each, the dearest first, as JSON.

    Raises:
        CannotRun: onnxruntime cannot run one of them.
    """
    from onnxopt import profile

    found = profile.measure(models, feed, settings)
    return [[dataclasses.asdict(kernel) for kernel in kernels] for kernels in found]


def show(found: Facts) -> list[RenderableType]:
    """Return tables of what `measure` found, for `onnxopt bench`; none if it was not asked."""
    profiles = found["profile"]
    if profiles is None:
        return []
    names = "AB"[: len(profiles)]
    return [_ops(profiles, names), *(_top(p, n) for p, n in zip(profiles, names, strict=True))]


def _ops(profiles: list[list[Facts]], names: str) -> RenderableType:
    sums: list[dict[str, float]] = []
    for kernels in profiles:
        ops: dict[str, float] = defaultdict(float)
        for kernel in kernels:
            ops[kernel["op"]] += kernel["seconds"]
        sums.append(ops)
    ranked = sorted({op for ops in sums for op in ops}, key=lambda op: -max(o[op] for o in sums))
    totals = [sum(ops.values()) or 1.0 for ops in sums]
    rows = [[op, *_cells([o[op] for o in sums], totals)] for op in ranked[:OPS]]
    if len(ranked) > OPS:
        rest = [sum(o[op] for op in ranked[OPS:]) for o in sums]
        rows.append([f"{len(ranked) - OPS} more", *_cells(rest, totals)])
    columns = [column for name in names for column in (f">{name}", ">share")]
    return tables.table("kernels by op", *columns, rows=rows)


def _cells(times: list[float], totals: list[float]) -> list[str]:
    pairs = zip(times, totals, strict=True)
    cells = [
        (tables.seconds(t), f"{100 * t / whole:.0f}%") if t else ("", "") for t, whole in pairs
    ]
    return [text for pair in cells for text in pair]


def _top(kernels: list[Facts], name: str) -> RenderableType:
    rows = [
        [k["node"], k["op"], tables.seconds(k["seconds"]), f"{100 * k['share']:.0f}%"]
        for k in kernels[:TOP]
    ]
    return tables.table(f"dearest kernels of {name}", "op", ">time", ">share", rows=rows)

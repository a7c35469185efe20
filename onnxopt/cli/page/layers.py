"""What became of each layer, and what passes found out about it: widths, number types, evidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Facts = dict[str, Any]

SHOWN = 3
"""Entries of a list in a cell; more are counted."""

NOISE = "noise"
"""The key of relative squared errors in the evidence of a pass."""


def pairs(report: Facts) -> list[tuple[Facts, Facts | None]]:
    """Return layers of the source, each with what became of it."""
    nodes = (report.get("detail") or {}).get("nodes")
    if nodes is None:
        return []
    after: dict[str, Facts] = {}
    for node in nodes["after"]:
        if "weight" in node:
            after[node["graph"] + node["name"]] = node
            after.update((node["graph"] + name, node) for name in node["outputs"])
    found = []
    for node in nodes["before"]:
        if "weight" in node:
            keys = (node["name"], *node["outputs"])
            new = next((after[k] for n in keys if (k := node["graph"] + n) in after), None)
            found.append((node, new))
    return found


def precision(report: Facts) -> list[Facts]:
    """Return the types of weights, a row a layer; empty if none changed.

    A row has `layer`, `before`, `after`, `error` and `why`.
    `error` is the relative error of the outputs where that layer alone is in integers, as a text;
    empty where it was not measured.
    """
    rows = [_row(report, old, new) for old, new in pairs(report)]
    return rows if any(r["after"] not in (None, r["before"]) for r in rows) else []


def _row(report: Facts, old: Facts, new: Facts | None) -> Facts:
    nodes = [old] if new is None else [old, new]
    names = {name for n in nodes for name in (n["name"], n["weight"]["name"], *n["outputs"])}
    names |= {name.rpartition(".")[0] for name in names}  # `conv.weight` was made from `conv`
    found = dict.fromkeys(_findings(report, names))
    found |= dict.fromkeys(
        f"{u['pass']}: {u['reason']}" for u in report["untouched"] if u["name"] in names
    )
    noise = next(_noises(report, names), None)
    return {
        "layer": old["name"],
        "before": old["weight"]["dtype"],
        "after": None if new is None else new["weight"]["dtype"],
        "error": "" if noise is None else f"{math.sqrt(noise):.2%}",
        "why": "; ".join(found),
    }


def _tables(report: Facts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all mappings in the evidence of passes that may have layers for keys."""
    for step in report["steps"]:
        for what, held in step.get("evidence", {}).items():
            if isinstance(held, dict):
                yield what, held
                yield from ((k, v) for k, v in held.items() if isinstance(v, dict))


def _findings(report: Facts, names: set[str]) -> Iterator[str]:
    """Yield what passes found out about a layer, in words."""
    for what, table in _tables(report):
        for name in sorted(names & table.keys()):
            found = table[name]
            if isinstance(found, str):
                yield f"computed in {found}" if what == "nodes" else found
            elif what != NOISE:
                yield f"{what} {said(found)}"


def _noises(report: Facts, names: set[str]) -> Iterator[float]:
    for what, table in _tables(report):
        if what == NOISE:
            yield from (table[name] for name in sorted(names & table.keys()))


def evidence(report: Facts) -> list[Facts]:
    """Return what passes found out themselves, as tables: `title`, `columns`, `rows`."""
    return [
        found
        for step in report["steps"]
        for what, held in step.get("evidence", {}).items()
        for found in _evidence(f"{step['pass']}: {what}", held)
    ]


def _evidence(title: str, held: Any) -> Iterator[Facts]:
    """Yield a mapping or a list as tables; what is in it and large has one of its own."""
    if isinstance(held, list) and held and all(isinstance(row, dict) for row in held):
        columns = list(dict.fromkeys(key for row in held for key in row))
        columns.sort(key=lambda key: any(isinstance(row.get(key), list) for row in held))
        yield _table(title, columns, [[row.get(key) for key in columns] for row in held])
    elif isinstance(held, dict) and held and all(isinstance(v, dict) for v in held.values()):
        columns = list(dict.fromkeys(key for row in held.values() for key in row))
        rows = [[name, *(row.get(key) for key in columns)] for name, row in held.items()]
        yield _table(title, ["", *columns], rows)
    elif isinstance(held, dict):
        inner = {k: v for k, v in held.items() if isinstance(v, dict)}
        plain = [[k, v] for k, v in held.items() if k not in inner]
        if plain:
            yield _table(title, [], plain)
        for key, value in inner.items():
            yield from _evidence(f"{title}, {key}", value)
    elif held:
        yield _table(title, [], [["", held]])


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Facts:
    return {"title": title, "columns": columns, "rows": [list(map(said, row)) for row in rows]}


def said(value: Any) -> str:
    """Return any JSON value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {said(v)}" for k, v in value.items())
    if isinstance(value, list):
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return ", ".join(said(v) for v in value[:SHOWN]) + more
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)

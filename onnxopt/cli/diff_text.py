"""The differences of two models as a page of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt.cli import tables

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    Facts = dict[str, Any]

MOST_OPS = 16
MOST_NAMES = 3


def page(found: Facts) -> list[RenderableType | None]:
    """Return the parts of the page: counts, ops, tensors, interface, numbers, verdict."""
    return [
        _counts(found["a"], found["b"]),
        _ops(found["ops"]),
        tables.facts({k: t for k in ("added", "removed", "changed") if (t := _held(found, k))}),
        tables.facts({"interface": found["interface"]}),
        _outputs(found["numbers"]),
        tables.facts({"same" if found["same"] else "different": _verdict(found)}),
    ]


def _counts(a: Facts, b: Facts) -> Table:
    rows = []
    for label, key, form in (
        ("size", "bytes", tables.nbytes),
        ("nodes", "nodes", tables.number),
        ("parameters", "params", tables.number),
        ("MACs", "macs", tables.number),
    ):
        rows.append([label, form(a[key]), form(b[key]), tables.change(a[key], b[key])])
    for domain in sorted({*a["opsets"], *b["opsets"]}):
        old, new = (m["opsets"].get(domain) for m in (a, b))
        if old != new or domain == "ai.onnx":
            label = "opset" if domain == "ai.onnx" else f"opset of {domain}"
            rows.append([label, _or_none(old), _or_none(new), "same" if old == new else ""])
    return tables.table("", ">A", ">B", ">change", rows=rows)


def _or_none(value: object) -> str:
    return tables.UNKNOWN if value is None else str(value)


def _ops(ops: dict[str, list[int]]) -> Table | None:
    ranked = sorted(ops.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    rows = [
        [op, tables.number(a), tables.number(b), tables.signed(b - a)]
        for op, (a, b) in ranked[:MOST_OPS]
    ]
    if len(ranked) > MOST_OPS:
        a, b = (sum(counts[i] for _, counts in ranked[MOST_OPS:]) for i in (0, 1))
        more = f"{len(ranked) - MOST_OPS} more"
        rows.append([more, tables.number(a), tables.number(b), tables.signed(b - a)])
    return tables.table("op", ">A", ">B", ">change", rows=rows) if rows else None


def _held(found: Facts, kind: str) -> list[str]:
    tensors = found["tensors"][kind]
    if not tensors["count"]:
        return []
    count = tables.plural(tensors["count"], "tensor")
    names = ", ".join(t["name"] for t in tensors["largest"][:MOST_NAMES])
    rest = ", ..." if tensors["count"] > MOST_NAMES else ""
    return [f"{count}, {tables.nbytes(tensors['bytes'])}: {names}{rest}"]


def _outputs(numbers: Facts) -> Table | None:
    rows = [
        [
            o["name"],
            tables.drift(o["largest"]) if o["largest"] is not None else "inf",
            tables.drift(o["drift"]) if o["drift"] is not None else "inf",
            "rounding" if o["same"] else o["why"],
        ]
        for o in numbers["outputs"]
    ]
    if not rows:
        return None
    return tables.table("output", ">largest difference", ">drift", "which is", rows=rows)


def _verdict(found: Facts) -> list[str]:
    numbers = found["numbers"]
    lines = []
    if found["interface"]:
        lines.append("The interface differs.")
    if numbers["reason"]:
        lines.append(f"Outputs are not compared: {numbers['reason'].rstrip('.')}.")
    else:
        where = tables.plural(numbers["compared"], "sample")
        drawn = numbers["synthetic"]
        where += " drawn from the interface" if drawn else f" of {numbers['samples']}"
        beyond = [o["name"] for o in numbers["outputs"] if not o["same"]]
        floor = f"noise floor of A {tables.drift(numbers['noise_floor'])}"
        if beyond:
            what = f"{tables.plural(len(beyond), 'output')} differ by more than rounding"
            lines.append(f"{what.replace('output differ', 'output differs')} on {where}; {floor}.")
        else:
            same = "" if found["interface"] else "Same interface. "
            lines.append(f"{same}Outputs equal up to rounding on {where}; {floor}.")
    if numbers["random"]:
        names = ", ".join(numbers["random"])
        lines.append(f"Not compared, as they differ from run to run: {names}.")
    return lines

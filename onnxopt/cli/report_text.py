"""The report of a run as a page of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxopt.cli import doubt, tables, terminal

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    Report = dict[str, Any]

MOST_UNTOUCHED = 6
MOST_UNDONE = 8


def show_report(report: Report, calib: str | None, report_file: Path | None) -> None:
    """Print the report of a run.

    Args:
        report: As `--json` prints it.
        calib: What was given as `--calib`.
        report_file: Where the report went.
    """
    proof = report["proof"]
    warning = None
    if not proof["proven"]:
        said = {"NOT PROVEN": f"the outputs could not be compared: {proof['reason']}"}
        warning = tables.facts(said, style="yellow")
    terminal.show(
        warning,
        _steps(report),
        _before_after(report),
        tables.facts({**_proof(report, calib), **_remarks(report)}),
        _written(report, report_file),
    )


def _steps(report: Report) -> Table:
    rows = []
    before = report["source"]
    for step in report["steps"]:
        rows.append(
            [
                step["pass"],
                tables.number(step["edits"]),
                tables.signed(step["nodes"] - before["nodes"]),
                tables.nbytes(step["bytes"]),
                tables.drift(step["drift"]),
                tables.seconds(step["seconds"] + step["proof_seconds"]),
            ]
        )
        before = step
    return tables.table("pass", ">edits", ">nodes", ">size", ">drift", ">time", rows=rows)


def _before_after(report: Report) -> Table:
    source, result, latency = report["source"], report["result"], report["latency"]
    rows = []
    for label, key, form in (
        ("size", "bytes", tables.nbytes),
        ("nodes", "nodes", tables.number),
        ("parameters", "params", tables.number),
        ("MACs", "macs", tables.number),
    ):
        a, b = source[key], result[key]
        rows.append([label, form(a), form(b), tables.change(a, b)])
    if latency is None:
        rows.append(["latency", tables.UNKNOWN, tables.UNKNOWN, "not measured"])
    else:
        rows.append(
            [
                f"latency, {tables.plural(latency['threads'], 'thread')}",
                tables.seconds(latency["before_ms"] / 1e3),
                tables.seconds(latency["after_ms"] / 1e3),
                f"{1 / latency['ratio']:.2f}x as fast",
            ]
        )
    return tables.table("", ">before", ">after", ">change", rows=rows)


def _proof(report: Report, calib: str | None) -> dict[str, list[str]]:
    proof = report["proof"]
    if not proof["proven"]:
        return {}
    lines = [_equal(proof, calib)]
    if proof["metric"] is not None:
        lines.append(_score(proof))
    if proof["synthetic"] and proof["metric"] is None:
        lines.append("Samples of your own prove more: give --calib PATH.")
    if proof["not_compared"]:
        names = ", ".join(proof["not_compared"])
        lines.append(f"Not compared, as they differ from run to run: {names}.")
    found = {"proven": lines}
    if unsure := doubt.words(proof):
        found["not sure"] = [unsure]
    if proof["unreached_branches"]:
        found["branches"] = _unreached(report)
    return found


def _equal(proof: Report, calib: str | None) -> str:
    given = proof["compared"] - proof["drawn"]
    if proof["synthetic"]:
        where = f"{tables.plural(given, 'input')} drawn from the interface"
    else:
        where = f"{tables.plural(given, 'hold-out sample')} of {calib}"
    if proof["drawn"]:
        where += f" and {proof['drawn']} drawn to reach branches"
    if proof["drift"] is None:
        return f"No pass changed the model, compared on {where}."
    levels = "run as written and with onnxruntime's optimizations"
    floor = tables.drift(proof["noise_floor"])
    if proof["metric"] is not None:
        return f"Compared on {where}, {levels}. Noise floor {floor}."
    worst = tables.drift(proof["drift"])
    return f"Same outputs on {where}, {levels}. Largest drift {worst}, noise floor {floor}."


def _score(proof: Report) -> str:
    error = proof["drop_error"]
    margin = "" if error is None else f" +-{error:.4f}"
    return (
        f"{proof['metric']} {proof['value']:.4f} on {tables.plural(proof['samples'], 'sample')},"
        f" a drop of {proof['drop']:.4f}{margin} (allowed: {proof['max_drop']:g})."
    )


def _unreached(report: Report) -> list[str]:
    branches = report["proof"]["unreached_branches"]
    edits = sum(s["unproven_edits"] for s in report["steps"])
    held = sum(s["held_back"] for s in report["steps"])
    what = f"{tables.plural(len(branches), 'branch', 'branches')} reached by no input"
    kept = f"{tables.plural(edits, 'edit')} there {'is' if edits == 1 else 'are'} right by rule,"
    lines = [f"{what}; {kept} not by measurement." if edits else f"{what}, and not changed."]
    if held:
        lines.append(f"{tables.plural(held, 'edit')} of lossy passes held back there.")
    return lines


def _remarks(report: Report) -> dict[str, list[str]]:
    undone = [
        f"{name}: {reason}"
        for step in report["steps"]
        for name, reason in zip(step["undone"], step["reasons"], strict=True)
    ]
    untouched = [f"{u['name']}: {u['reason']} ({u['pass']})" for u in report["untouched"]]
    notes = list(report["notes"])
    if not any(s["edits"] or s["undone"] or s["held_back"] for s in report["steps"]):
        notes.append("no pass found anything to do")
    said = {
        "undone": tables.first(undone, MOST_UNDONE),
        "left alone": tables.first(untouched, MOST_UNTOUCHED),
        "notes": notes,
    }
    return {k: [f"- {line}" for line in v] if len(v) > 1 else v for k, v in said.items()}


def _written(report: Report, report_file: Path | None) -> str:
    """Say where things are; paths are never folded, so that they can be copied."""
    path = report["result"]["path"]
    lines = [f"wrote {path}" if path else "dry run: nothing is written"]
    if report_file is not None:
        lines.append(f"wrote {report_file}")
    return "\n".join(lines)

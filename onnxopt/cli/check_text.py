"""What `onnxopt check` found, as text and for machines: JSON, GitHub annotations, SARIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt import __version__
from onnxopt.cli import tables
from onnxopt.cli.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxopt.check import Finding, Rule
    from onnxopt.check.fix import Fix

SCHEMA_VERSION = 1

SARIF = "https://json.schemastore.org/sarif-2.1.0.json"

GITHUB = {"error": "error", "warning": "warning", "note": "notice"}


def render(findings: Sequence[Finding], files: int, form: str) -> str:
    """Return findings as text.

    Args:
        findings: What was found.
        files: How many files were checked.
        form: `text`, `json`, `github` or `sarif`.
    """
    return FORMS[form](findings, files)


def _text(findings: Sequence[Finding], files: int) -> str:
    lines = []
    for f in findings:
        note = "" if f.fails else "note: "
        mark = "[*] " if f.rule.fixable else ""
        lines.append(plain(f"{f.path}: {f.rule.code} {mark}{note}{_message(f)}"))
    bad = sum(f.fails for f in findings)
    notes = len(findings) - bad
    said = f"{tables.plural(bad, 'problem') if bad else 'no problem'} in"
    said += f" {tables.plural(files, 'model')}"
    said += f", {tables.plural(notes, 'note')}" if notes else ""
    lines += ["", said] if lines else [said]
    fixable = sum(f.rule.fixable for f in findings)
    if fixable:
        lines.append(f"[*] {fixable} may be mended with --fix; --diff shows how")
    if findings:
        lines.append(f"more on a rule: onnxopt check --explain {findings[0].rule.code}")
    return "\n".join(lines)


def _json(findings: Sequence[Finding], files: int) -> str:
    found = {
        "schema_version": SCHEMA_VERSION,
        "files": files,
        "problems": sum(f.fails for f in findings),
        "findings": [
            {
                "code": f.rule.code,
                "name": f.rule.name,
                "level": f.rule.level.value,
                "path": f.path,
                "where": f.where,
                "message": f.message,
                "fixable": f.rule.fixable,
            }
            for f in findings
        ],
    }
    return json.dumps(found, indent=2)


def _github(findings: Sequence[Finding], files: int) -> str:
    lines = []
    for f in findings:
        kind = GITHUB[f.rule.level.value]
        title = _property(f"onnxopt {f.rule.code} {f.rule.name}")
        lines.append(f"::{kind} file={_property(f.path)},title={title}::{_data(_message(f))}")
    return "\n".join(lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(findings: Sequence[Finding], files: int) -> str:
    used: dict[str, Rule] = {f.rule.code: f.rule for f in findings}
    order = sorted(used)
    driver = {
        "name": "onnxopt",
        "version": __version__,
        "rules": [_sarif_rule(used[code]) for code in order],
    }
    results = [
        {
            "ruleId": f.rule.code,
            "ruleIndex": order.index(f.rule.code),
            "level": f.rule.level.value,
            "message": {"text": _message(f)},
            "locations": [_sarif_location(f)],
        }
        for f in findings
    ]
    found = {
        "$schema": SARIF,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(found, indent=2)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "defaultConfiguration": {"level": rule.level.value},
    }


def _sarif_location(finding: Finding) -> dict[str, Any]:
    uri = Path(finding.path).as_posix()
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    }
    if finding.where:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.where}]
    return location


def _message(finding: Finding) -> str:
    return f"{finding.where}: {finding.message}" if finding.where else finding.message


def fixed(fixes: Sequence[Fix]) -> list[str]:
    """Return a line for each file that was changed, or could not be."""
    return [plain(f"{f.path}: {_became(f)}") for f in fixes if f.changed or f.reason]


def _became(fix: Fix) -> str:
    if fix.reason:
        return f"not changed: {fix.reason}"
    return f"mended, {tables.plural(fix.edits, 'edit')}, proven"


def diffs(fixes: Sequence[Fix]) -> str:
    """Return what `--fix` would change."""
    parts = [f.diff or f"{f.path}: {_became(f)}" for f in fixes if f.changed or f.reason]
    return "\n".join(parts) or "nothing to mend"


FORMS: dict[str, Callable[[Sequence[Finding], int], str]] = {
    "text": _text,
    "json": _json,
    "github": _github,
    "sarif": _sarif,
}

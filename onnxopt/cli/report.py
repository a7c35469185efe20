"""`onnxopt report`: make a page of the JSON report of an earlier run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, reports
from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 1
"""`onnxopt.report.SCHEMA_VERSION`, which is too heavy to import for `--help`."""


@click.command(
    "report",
    epilog=options.examples(
        "onnxopt report report.json                    writes report.html",
        "onnxopt report report.json -o page.html",
    ),
)
@click.argument("file", type=options.FILE)
@click.option("-o", "--output", type=options.FILE, help="File to write; default: FILE.html.")
def command(file: Path, output: Path | None) -> None:
    """Make one HTML page of FILE, the JSON that `run --report` wrote.

    The page needs no network. What `run --json` prints will do too; it lacks the profile and the
    nodes.
    """
    target = output or file.with_suffix(".html")
    reports.check(target, file)
    found = _read(file)
    from jinja2 import TemplateError

    from onnxopt.cli.page import render_report

    try:
        page = render_report(found)
    except (LookupError, TypeError, AttributeError, ValueError, TemplateError) as e:
        said = f"{type(e).__name__}: {e}"
        raise SpecError(f"{file} is no complete report of onnxopt run ({said})") from e
    reports.write_text(target, page)
    click.echo(f"wrote {target}")


def _read(file: Path) -> dict[str, Any]:
    """Return the report in a file.

    Raises:
        SpecError: It is no report of a run, or one of a version that is not known.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as e:
        raise SpecError(f"{file} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise SpecError(f"{file} is not JSON: {e}") from e
    if not isinstance(found, dict) or not {"schema_version", "steps", "proof"} <= set(found):
        raise SpecError(f"{file} is no report of onnxopt run; make one with run --report FILE")
    if found["schema_version"] != SCHEMA_VERSION:
        version = found["schema_version"]
        raise SpecError(f"{file} has schema version {version}, this onnxopt knows {SCHEMA_VERSION}")
    return found

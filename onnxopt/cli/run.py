"""`onnxopt run`: optimize a model, prove it, write it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, terminal
from onnxopt.cli.report_text import show_report
from onnxopt.errors import OutputError, ProofError

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.api import Result


@click.command(
    "run",
    epilog=options.examples(
        "onnxopt run model.onnx",
        "onnxopt run model.onnx --calib images/ --preprocess imagenet -o small.onnx",
    ),
)
@click.argument("model", type=options.FILE)
@click.option("-o", "--output", type=options.FILE, help="File to write; default: MODEL.opt.onnx.")
@click.option(
    "--passes", default="clean,fuse", show_default=True, metavar="TEXT",
    help="name:option=value,... or @recipe.toml; see onnxopt passes.",
)  # fmt: skip
@options.calib
@options.max_drop
@click.option(
    "--metric", metavar="NAME",
    help="The score of lossy passes: accuracy, expected-accuracy, cosine, sqnr or module:function;"
    " default: by the outputs.",
)  # fmt: skip
@options.target
@click.option("--report", "report_file", type=options.FILE, help="Write the JSON report there.")
@options.as_json
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors (and --json).")
@options.threads
@options.seed
@click.option("-n", "--dry-run", is_flag=True, help="Do everything but write the model.")
@click.option(
    "--require-proof/--no-require-proof", default=None,
    help="Refuse where outputs cannot be compared; default: lossy passes refuse.",
)  # fmt: skip
@click.option("--allow-synthetic", is_flag=True, help="Let lossy passes do without real samples.")
@click.option("--allow-slower", is_flag=True, help="Write even what measures slower.")
@options.custom_ops
@click.option(
    "--repro", type=options.FILE, metavar="DIR",
    help="Save models and inputs that show each edit that had to be undone.",
)  # fmt: skip
@click.option("--external-data", is_flag=True, help="Keep large weights in a file beside it.")
def command(
    model: Path,
    output: Path | None,
    report_file: Path | None,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    **settings: Any,
) -> None:
    """Make MODEL smaller and faster, prove it, and write it.

    Some samples of --calib are held out for the proof; without samples, inputs are drawn, which
    proves exact passes only. If anything fails, nothing is written.
    """
    target = output or model.parent / f"{model.name.removesuffix('.onnx')}.opt.onnx"
    if report_file is not None:
        _check_report(report_file, model, target)
    with terminal.Bar(not quiet) as bar:
        try:
            result = _optimize(model, None if dry_run else target, bar, settings)
        except ProofError as e:
            if report_file is not None:
                raise type(e)(f"{e}; no report either: it describes runs that end") from e
            raise
    if report_file is not None:
        _write_report(report_file, result.report)
    if as_json:
        terminal.show_json(result.report)
    elif not quiet:
        show_report(result.report, settings["calib"], report_file)


def _optimize(
    model: Path, output: Path | None, bar: terminal.Bar, settings: dict[str, Any]
) -> Result:
    from onnxopt.api import optimize

    bar("starting")
    words = dict(settings)
    words["calibration"] = words.pop("calib")
    return optimize(model, output=output, progress=bar, **words)


def _check_report(path: Path, model: Path, output: Path) -> None:
    """Refuse before any work a report that could not be written, or would replace a model."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory; give the name of a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    if path.resolve() in (model.resolve(), output.resolve()):
        raise OutputError(f"the report would replace the model {path}; give it another name")


def _write_report(path: Path, found: dict[str, Any]) -> None:
    from onnxopt.model import files

    with files.atomic(path) as file:
        file.write(json.dumps(found, indent=2, allow_nan=False).encode() + b"\n")

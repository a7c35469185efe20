"""`onnxopt run`: optimize a model, prove it, write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, reports, terminal
from onnxopt.cli.report_text import show_report
from onnxopt.errors import ProofError

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
    help="name:option=value:option=value,name,... or @recipe.toml; see onnxopt passes.",
)  # fmt: skip
@options.calib
@options.max_drop
@click.option(
    "--upper-bound", is_flag=True,
    help="Hold the upper end of the drop's 95 % interval to it, not the mean.",
)  # fmt: skip
@click.option(
    "--metric", metavar="NAME",
    help="The score of lossy passes: accuracy, expected-accuracy, sequence, logits, segments,"
    " detections, cosine, sqnr or module:function; default: by the outputs.",
)  # fmt: skip
@options.target
@click.option(
    "--report",
    "report_file",
    type=options.FILE,
    help="Write a report there: a page to look at if it ends in .html, else JSON.",
)
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
@click.option("--fail-on-noop", is_flag=True, help="Refuse where a lossy pass changes nothing.")
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
        reports.check(report_file, model, target)
    with terminal.Bar(not quiet) as bar:
        try:
            detail = report_file is not None
            result = _optimize(model, None if dry_run else target, bar, settings, detail)
        except ProofError as e:
            if report_file is not None:
                raise type(e)(f"{e}; no report either: it describes runs that end") from e
            raise
    if report_file is not None:
        reports.write(report_file, result.report)
    if as_json:
        terminal.show_json(result.report)
    elif not quiet:
        show_report(result.report, settings["calib"], report_file)


def _optimize(
    model: Path, output: Path | None, bar: terminal.Bar, settings: dict[str, Any], detail: bool
) -> Result:
    from onnxopt.api import optimize

    bar("starting")
    words = dict(settings)
    words["calibration"] = words.pop("calib")
    return optimize(model, output=output, progress=bar, detail=detail, **words)

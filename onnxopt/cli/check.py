"""`onnxopt check`: a linter for models, for pre-commit and CI."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, terminal
from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from onnxopt.check import Finding, Settings

FORMATS = ("text", "json", "github", "sarif")


def _codes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code.strip().upper() for part in value for code in part.split(",") if code.strip())


codes = options.stacked(
    click.option(
        "--select", multiple=True, callback=_codes, metavar="CODES",
        help="Only these rules: codes or their beginnings, OPT2,OPT301; ALL for all.",
    ),
    click.option(
        "--ignore", multiple=True, callback=_codes, metavar="CODES", help="All but these rules."
    ),
)  # fmt: skip

bounds = options.stacked(
    click.option("--max-bytes", metavar="N", help="Largest file, as 5MB."),
    click.option("--max-params", metavar="N", help="Most parameters, as 1.5M."),
    click.option("--max-macs", metavar="N", help="Most multiply-accumulates."),
    click.option(
        "--baseline", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
        help="Time it against this model, in turn.",
    ),
    click.option(
        "--max-latency-ratio", type=options.Number(min=0, min_open=True), metavar="X",
        help="Longest time, over that of the baseline.",
    ),
    click.option("--min-opset", type=click.IntRange(min=1), metavar="N", help="Oldest opset."),
    click.option("--max-opset", type=click.IntRange(min=1), metavar="N", help="Newest opset."),
    click.option("--banned-ops", "--ban-op", multiple=True, metavar="OP", help="An op to refuse."),
    click.option(
        "--required-metadata", "--require-metadata", multiple=True, metavar="KEY",
        help="A key that metadata_props must have.",
    ),
)  # fmt: skip


@click.command(
    "check",
    epilog=options.examples(
        "onnxopt check models/",
        "onnxopt check model.onnx --max-bytes 5MB --fix",
        "onnxopt check --explain OPT203",
    ),
)
@click.argument("paths", type=options.FILE, nargs=-1)
@codes
@click.option("--fix", is_flag=True, help="Mend what exact passes can, proven, file by file.")
@click.option("--diff", is_flag=True, help="Show what --fix would do; write nothing.")
@click.option(
    "--output-format", type=click.Choice(FORMATS), default="text", show_default=True,
    help="How to say it.",
)  # fmt: skip
@click.option(
    "--runtime",
    is_flag=True,
    help="Also what takes longer: load into onnxruntime, rehearse --fix (OPT004, OPT213).",
)
@click.option("--explain", metavar="CODE", help="Explain a rule, or all of them, and exit.")
@click.option(
    "--config", type=options.FILE, metavar="FILE",
    help="Settings; default: the nearest pyproject.toml with a [tool.onnxopt] table.",
)  # fmt: skip
@bounds
@click.pass_context
def command(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    fix: bool,
    diff: bool,
    output_format: str,
    explain: str | None,
    config: Path | None,
    **given: Any,
) -> None:
    """Check models: valid, portable, lean, sound, safe, within budgets.

    PATHS are model files, or folders with .onnx files; default: the current one.

    Settings and budgets stand in [tool.onnxopt] of pyproject.toml; options override them. Exit
    codes: 0 nothing wrong (notes do not count), 1 something is, 2 bad usage.
    """
    if explain is not None:
        click.echo(_explained(explain))
        return
    if fix and diff:
        raise click.UsageError("--fix and --diff exclude each other", ctx)
    if not (fix or diff):
        _spare_blas_threads()
    from onnxopt import check
    from onnxopt.cli import check_text

    settings = _settings(config, {**given, "runtime": given["runtime"] or fix or diff})
    files = check.models(paths or (Path(),))
    findings = [f for path in files for f in check.check(path, settings)]
    if fix or diff:
        failed = _mend(files, findings, settings, fix, output_format)
        ctx.exit(failed)
    click.echo(check_text.render(findings, len(files), output_format))
    ctx.exit(int(any(f.fails for f in findings)))


def _spare_blas_threads() -> None:
    """Let numpy start no threads for linear algebra, which takes longer than looking at a model."""
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _mend(
    files: list[Path], findings: list[Finding], settings: Settings, write: bool, form: str
) -> int:
    """Fix what can be fixed, or show how; say what remains; return the exit code."""
    from onnxopt import check
    from onnxopt.check.fix import fix
    from onnxopt.cli import check_text

    fixable = {f.path for f in findings if f.rule.fixable}
    fixes = []
    with terminal.Bar() as bar:
        for path in files:
            if str(path) in fixable:
                bar(f"mending {path.name}")
                fixes.append(fix(path, write))
    if not write:
        click.echo(check_text.diffs(fixes))
        return int(any(f.changed or f.reason for f in fixes))
    changed = {f.path for f in fixes if f.changed}
    left = [f for f in findings if Path(f.path) not in changed]
    left += [f for path in files if path in changed for f in check.check(path, settings)]
    for note in check_text.fixed(fixes):
        click.echo(note, err=form != "text")
    click.echo(check_text.render(left, len(files), form))
    return int(any(f.fails for f in left))


def _settings(config: Path | None, given: dict[str, Any]) -> Settings:
    """Return the settings of the project, options put over them."""
    from onnxopt.check import Settings, rules, settings

    path = config or settings.find(Path())
    found = Settings() if path is None else settings.read(path)
    where = "the options" if path is None else str(path)
    per_file = [code for codes in found.per_file_ignores.values() for code in codes]
    rules.verify((*found.select, *found.ignore, *per_file), where)
    rules.verify((*given["select"], *given["ignore"]), "--select, --ignore")
    budgets = {
        name: settings.budget(
            name, list(value) if isinstance(value, tuple) else value, f"--{name.replace('_', '-')}"
        )
        for name in settings.BUDGETS
        if (value := given.get(name))
    }
    for name in ("max_bytes", "max_params", "max_macs"):
        if given.get(name) is not None and not budgets.get(name):
            raise SpecError(f"--{name.replace('_', '-')} must be above 0")
    return dataclasses.replace(
        found,
        select=given["select"] or found.select,
        ignore=(*found.ignore, *given["ignore"]),
        runtime=given["runtime"] or found.runtime,
        budgets=dataclasses.replace(found.budgets, **budgets),
    )


def _explained(code: str) -> str:
    """Return what a rule is about; of `all`, a line each."""
    from onnxopt.check import rules

    if code.lower() == "all":
        lines: list[str] = []
        for group, name in rules.GROUPS.items():
            lines += ["", f"{group}xx {name}"] if lines else [f"{group}xx {name}"]
            found = [r for r in rules.RULES if r.code.startswith(group)]
            lines += [f"  {r.code} {r.level.value:7} {r.title}" for r in found]
        return "\n".join(lines)
    rule = rules.rule(code)
    facts = [f"level {rule.level.value}"]
    facts += ["mended by --fix"] if rule.fixable else []
    facts += ["runs with --runtime"] if rule.runtime else []
    return f"{rule.code} {rule.name} ({', '.join(facts)})\n\n{rule.explanation}"

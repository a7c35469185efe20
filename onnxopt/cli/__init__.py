"""The command line: the only place that prints, and the only one that exits.

Exit codes: 0 done; 1 the budget or the proof failed, and nothing is written (`diff`: the models
differ); 2 bad usage or bad input; 130 interrupted; 141 the reader of the output went away. An error
is one line on stderr; with `--json` stdout gets one object too, so that a parser behind the pipe
never starves: `{"error": {"kind": "ParityError", "message": "...", "exit_code": 1}}`.

Nothing heavy is imported here or in the modules of the commands: they import onnx, numpy and the
engine when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import io
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from onnxopt import __version__
from onnxopt.cli import options, terminal
from onnxopt.errors import OnnxoptError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("run", "check", "passes", "inspect", "explain", "diff", "bench", "report")
"""In the order of the help; each is the command `command` of the module of its name."""

INTERRUPTED = 130
BROKEN_PIPE = 141


class Commands(click.Group):
    """The commands, imported when they are asked for; errors on one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"onnxopt.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or say which one may be."""
        name = args[0]
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
            if name.endswith(".onnx"):
                hint = f"to optimize a model: onnxopt run {name}"
            raise click.UsageError(f"no command is named {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take no arguments at all for a call for help."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end quietly when the user or the reader of the output stops it."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            terminal.error("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            terminal.mute()
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; what is no error of the user keeps its traceback."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        atexit.register(gc.freeze)  # a tenth of a second less: nothing is collected on the way out
        as_json = "--json" in (sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
        except OnnxoptError as e:
            code = terminal.fail(type(e).__name__, str(e), e.exit_code, as_json)
        except click.ClickException as e:
            code = terminal.fail("UsageError", _usage(e), 2, as_json)
        sys.exit(code or 0)


def _usage(error: click.ClickException) -> str:
    """Return what is wrong, and where help is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{message} (see {context.command_path} --help)" if context else message


@click.group(
    "onnxopt",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=options.examples(
        "onnxopt run model.onnx                    writes model.opt.onnx",
        "onnxopt run model.onnx --calib data.npz   proves it on real samples",
    ),
)
@click.version_option(__version__, prog_name="onnxopt", message="%(prog)s %(version)s")
def main() -> None:
    """Make any ONNX model smaller and faster, and prove that it does the same job.

    Exit codes: 0 done; 1 the budget or the proof failed, nothing is written; 2 bad usage or bad
    input. An error is one line on stderr; with --json, stdout gets {"error": {"kind", "message",
    "exit_code"}} as well.
    """

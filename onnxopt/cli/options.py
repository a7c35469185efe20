"""Options that several commands take, and the samples that they stand for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.tables import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt.model import Exported, Model
    from onnxopt.samples import Samples

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

TARGETS = ("portable", "ort-cpu")
"""`onnxopt.api.TARGETS`, which is too heavy to import for `--help`."""


MOST_THREADS = 1024
"""More than any machine has; onnxruntime fails on numbers that no machine has."""


class Number(click.FloatRange):
    """A finite number in a range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number that a text stands for."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is no finite number", param, ctx)
        return found


FILE = click.Path(path_type=Path)
"""A path; whether it can be read or written is for the engine to say, in its own words."""


def stacked(*decorators: Decorator) -> Decorator:
    """Return one decorator for several, listed in the order of the help."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def examples(*lines: str) -> str:
    """Return the end of a help text: command lines, not wrapped."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def _preprocess(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not ctx.params.get("calib"):
        raise click.UsageError("--preprocess is for images: give their folder with --calib", ctx)
    return value


calib = stacked(
    click.option(
        "--calib",
        is_eager=True,
        metavar="PATH",
        help="Samples: .npz, a folder of .npz/.npy, images or test_data_set_*, or module:function.",
    ),
    click.option(
        "--preprocess",
        callback=_preprocess,
        metavar="TEXT",
        help="How image files become inputs, e.g. imagenet:size=224:layout=nhwc.",
    ),
)

threads = click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), default=1, show_default=True, metavar="N",
    help="Threads of onnxruntime.",
)  # fmt: skip

seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
    help="Seeds all that is random.",
)  # fmt: skip

custom_ops = click.option(
    "--custom-ops", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="LIB",
    help="Library of custom operators for onnxruntime; may be repeated.",
)  # fmt: skip

target = click.option(
    "--target", type=click.Choice(TARGETS), default=TARGETS[0], show_default=True,
    help="Standard ops only, or also what only onnxruntime on this CPU gains from.",
)  # fmt: skip

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

max_drop = click.option(
    "--max-drop", type=Number(min=0), default=0.01, show_default=True,
    metavar="X", help="How far lossy passes may lower the score.",
)  # fmt: skip


def load(path: Path) -> Model:
    """Load a model; what is wrong with it is said with its name.

    Raises:
        ModelError: It cannot be read, or is not a valid model.
    """
    from onnxopt.errors import ModelError
    from onnxopt.model import Model

    try:
        return Model.load(path)
    except ModelError as e:
        raise e if str(path) in str(e) else ModelError(f"{path}: {e}") from e


def samples(exported: Exported, calib: str | None, preprocess: str | None, seed: int) -> Samples:
    """Return the samples that `--calib` names; drawn ones without it.

    Raises:
        SamplesError: They cannot be read, do not fit the model, or cannot be drawn.
    """
    from onnxopt import trial
    from onnxopt.proof import COMPARED, DRAWN
    from onnxopt.runtime import Settings
    from onnxopt.samples import Preprocess, open_samples

    if calib is None:
        return trial.drawn(exported, Settings(), seed=seed, n=DRAWN)
    how = None if preprocess is None else Preprocess.parse(preprocess)
    return open_samples(calib, exported.inputs, preprocess=how).take(COMPARED)


def origin(count: int, found: Samples) -> str:
    """Return how many samples there are and where they come from."""
    if found.synthetic:
        return f"{plural(count, 'input')} drawn from the interface"
    return f"{plural(count, 'sample')} of {found.source}"

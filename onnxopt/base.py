"""What a pass is, and what it may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt.model import Model
    from onnxopt.samples import Samples


def _always(edit_id: str) -> bool:
    return True


def _forget(edit_id: str) -> None:
    return None


def _quiet(done: float) -> None:
    return None


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the model. Read-only; the hold-out samples are not in it.

    Attributes:
        calibration: Samples to learn from; None where the run has none. Their `synthetic` says
            whether they are real.
        target: `portable` for standard ops only, or `ort-cpu`.
        seed: Seeds everything random.
        threads: How many threads onnxruntime may use.
        max_drop: How far the score may fall over the whole run. A lossy pass that chooses how far
            to go does so on a part of its calibration samples that it sets aside.
        metric: What the run is scored by: a name, `module:function`, or None to choose by the
            outputs (`metrics.choose`).
        custom_ops: Libraries of custom operators, for sessions.
        allow: Asked with a stable id (`conv_bn@/layer1/bn`) right before each edit; where it
            says False the edit must not be made. This is how a wrong edit is found and undone.
        retract: Told the id of an edit that was allowed but was not made after all.
        progress: Told how much of the pass is done, 0 to 1.
        notes: A pass appends what the report should say.
        untouched: A pass sets name -> reason for what it had to leave alone.
        evidence: A pass sets what its proof beyond parity found, for the JSON report: a
            `certificate`, say.
        source_bytes: What the run's source takes as a file; 0 where there is none. A rewrite that
            is fast but takes room may use what earlier passes saved.
    """

    calibration: Samples | None = None
    target: str = "portable"
    seed: int = 0
    threads: int = 1
    max_drop: float = 0.01
    metric: str | None = None
    custom_ops: tuple[str, ...] = ()
    allow: Callable[[str], bool] = _always
    retract: Callable[[str], None] = _forget
    progress: Callable[[float], None] = _quiet
    notes: list[str] = field(default_factory=list)
    untouched: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, object] = field(default_factory=dict)
    source_bytes: int = 0


@dataclass(frozen=True)
class Pass(ABC):
    """One optimization. Its dataclass fields are its options; its docstring is its help.

    Attributes:
        name: How the command line and reports call it; equals the entry point's name.
        exact: Whether outputs stay equal up to rounding. A pass that trades accuracy for size or
            speed says False, and is held to the run's budget instead.
        requires: Names of passes that must have run before; missing ones are put in, visibly.
        calibrated: Whether it needs real samples.
        followed: Names of passes that tidy what it made, in turn with it, until nothing is left to
            do (`settle`).
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    calibrated: ClassVar[bool] = False
    followed: ClassVar[tuple[str, ...]] = ()

    @property
    def adapts(self) -> bool:
        """Whether it chooses how far to go by `ctx.max_drop`, and goes less far if that is less."""
        return False

    def survey(self, model: Model, ctx: Context) -> dict[str, Any]:
        """Return what the pass sees in a model, for `onnxopt inspect`; mostly nothing."""
        return {}

    @abstractmethod
    def run(self, model: Model, ctx: Context) -> int:
        """Edit the model in place; return how many edits were made, 0 if it is untouched.

        Every edit asks `ctx.allow` first. Nothing here may be random but by `ctx.seed`.
        """

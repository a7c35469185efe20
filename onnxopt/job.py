"""What a run is asked for, and what it finds out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt.proof import Outcome, Proof, Terms

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.base import Pass
    from onnxopt.cost import Cost
    from onnxopt.model import Exported

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of it is (0 to 1)."""


def quiet(what: str, done: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Job:
    """What to do to a model, and what to hold it to.

    Attributes:
        passes: In the order in which they run, required ones put in.
        terms: What is promised.
        target: `portable` or `ort-cpu`.
        require_proof: Refuse where nothing can be compared; None: lossy passes refuse.
        allow_synthetic: Let lossy passes do with drawn inputs.
        pass_timeout: Seconds after which a pass is taken to loop.
        progress: Told what is going on.
        repro: Folder for models and inputs that show each wrong edit; None to keep none.
        staged: Keep what each pass made, to be timed afterwards.
    """

    passes: tuple[Pass, ...]
    terms: Terms = field(default_factory=Terms)
    target: str = "portable"
    require_proof: bool | None = None
    allow_synthetic: bool = False
    pass_timeout: float = 1800.0
    progress: Progress = quiet
    repro: Path | None = None
    staged: bool = False


@dataclass(frozen=True)
class Step:
    """What one pass did, and what was proven of it.

    Attributes:
        spec: The pass as text.
        edits: Edits that stayed.
        undone: Ids of edits that were wrong and were undone; an id ending in `@` is a whole rule.
        reasons: Why, one an undone id.
        unproven_edits: Edits in branches that no input reached: kept, as their rules need no data.
        held_back: Edits not made in such branches because the pass is lossy.
        seconds: Time of the pass itself, without its proof.
        proof_seconds: Time of the proof, bisection included.
        outcome: Drift and score.
        cost: Counts of the model after the pass.
        ops: By how much each op's count changed.
        notes: What the pass wants said.
        untouched: What it left alone, and why.
        evidence: What its own proof found.
    """

    spec: str
    edits: int
    undone: tuple[str, ...]
    reasons: tuple[str, ...]
    unproven_edits: int
    held_back: int
    seconds: float
    proof_seconds: float
    outcome: Outcome
    cost: Cost
    ops: dict[str, int]
    notes: tuple[str, ...]
    untouched: dict[str, str]
    evidence: dict[str, object]


@dataclass(frozen=True)
class Run:
    """All that a run found out.

    Attributes:
        source: The model as it was given.
        result: The model after the last pass.
        source_cost: Counts of the source.
        steps: One a pass.
        proof: What candidates were held against.
        notes: What the report should say of the run.
        stages: The model after each pass; empty unless the job asks for them.
        passes: What was run, one a step.
    """

    source: Exported
    result: Exported
    source_cost: Cost
    steps: tuple[Step, ...]
    proof: Proof
    notes: tuple[str, ...]
    stages: tuple[Exported, ...] = ()
    passes: tuple[Pass, ...] = ()

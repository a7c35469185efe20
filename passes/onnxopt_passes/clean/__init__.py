"""`clean`: the same function in fewer nodes and bytes, for any model.

What exporters note for debugging goes first. Then a round runs, in this order: Constant nodes
become initializers; local rules (identities, transposes, reshapes, concats, slices, choices between
shapes); constant folding; Reshapes whose computed shape can be written down; Ifs and Loops that are
decided; equal nodes, equal initializers; what is dead. Rounds are repeated until one changes
nothing. Weights are flushed of subnormal values last, since that is to be done once; if it changes
anything, rounds follow, for weights may be equal then.

Parts take types, and which tensors are returned, as they were noted when the round began
(`shapes.infer`, `links.restamp`).

Every part shrinks the graph, so that rounds end; every part visits nodes and constants in the
graph's order, so that results are the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxopt import resolve, rewrite, shapes
from onnxopt.base import Pass
from onnxopt.errors import PassError
from onnxopt_passes.clean import (
    concat_slice,
    constants,
    flat_product,
    identity,
    links,
    ones,
    reshape,
    shape_choice,
    strided,
    transpose,
)
from onnxopt_passes.clean.branches import decide
from onnxopt_passes.clean.constants import flush, lift
from onnxopt_passes.clean.dead import dead
from onnxopt_passes.clean.duplicates import merge_constants, merge_nodes
from onnxopt_passes.clean.fold import fold
from onnxopt_passes.clean.notes import drop_notes
from onnxopt_passes.clean.shape_math import settle

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

RULES: tuple[rewrite.Rule, ...] = (
    *identity.RULES,
    *transpose.RULES,
    *reshape.RULES,
    *ones.RULES,
    *flat_product.RULES,
    *concat_slice.RULES,
    *constants.RULES,
    *shape_choice.RULES,
    *strided.RULES,
)
"""The local rules, in the order in which they are tried."""

ROUNDS = 100
"""Parts that still find something after so many rounds undo each other's work."""


@dataclass(frozen=True)
class Clean(Pass):
    """Fold constants, settle shapes and branches, and drop what has no effect.

    Attributes:
        fold_limit: Do not fold what has an intermediate of more bytes than this.
        notes: Whether to keep what exporters note of operators for debugging: stack traces and
            names of modules.
    """

    name: ClassVar[str] = "clean"

    fold_limit: int = 16_777_216
    notes: bool = False

    def __post_init__(self) -> None:
        if self.fold_limit < 0:
            raise ValueError("fold_limit must not be negative")

    def run(self, model: Model, ctx: Context) -> int:
        """Repeat all parts until none finds anything."""
        total = 0 if self.notes else drop_notes(model, ctx)
        total += self._rounds(model, ctx)
        while made := flush(model, ctx):
            total += made + self._rounds(model, ctx)
        return total

    def _rounds(self, model: Model, ctx: Context) -> int:
        total, typed = 0, False
        for _ in range(ROUNDS):
            if not typed:
                shapes.infer(model)
            links.restamp(model)
            made = self._compute(model, ctx)
            typed = not made  # that equal and dead nodes go tells inference nothing new
            made += merge_nodes(model, ctx) + merge_constants(model, ctx) + dead(model, ctx)
            made = made or self._resolve(model, ctx)
            if not made:
                return total
            total += made
        raise PassError(f"clean has not settled after {ROUNDS} rounds: its parts loop")

    def _resolve(self, model: Model, ctx: Context) -> int:
        """Settle Reshapes by sizes that onnx's inference does not find; types are up to date."""
        return settle(model, ctx) if resolve.refine(model) else 0

    def _compute(self, model: Model, ctx: Context) -> int:
        return (
            lift(model, ctx)
            + rewrite.apply(model, RULES, ctx)
            + fold(model, ctx, self.fold_limit)
            + settle(model, ctx)
            + decide(model, ctx)
        )

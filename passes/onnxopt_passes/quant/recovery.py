"""Steps that win accuracy back, each kept only where the error on held-out samples falls.

The held-out samples are the part of the calibration samples that trials are made on. A step is
tried on all layers together; where that does not help, on halves, and halves of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt_passes.quant.trial import Trial

DEPTH = 3
"""How often layers are halved."""


@dataclass(frozen=True)
class Kept:
    """What became of a step.

    Attributes:
        step: How reports call it.
        names: The layers that it is kept for.
        tried: How many there were.
        before: Noise without it.
        after: Noise with it.
    """

    step: str
    names: frozenset[str]
    tried: int
    before: float
    after: float

    def report(self, ctx: Context, mode: str) -> None:
        """Say what was kept, and by how much the error fell."""
        if not self.tried:
            return
        found = ctx.evidence.setdefault(f"{mode} recovery", {})
        assert isinstance(found, dict)  # noqa: S101  # made here
        found[self.step] = {
            "kept": sorted(self.names),
            "tried": self.tried,
            "noise_before": self.before,
            "noise_after": self.after,
        }
        change = (
            f"{self.before:.2g} to {self.after:.2g}" if self.names else f"stays {self.before:.2g}"
        )
        ctx.notes.append(
            f"{mode}: {self.step} kept for {len(self.names)} of {self.tried} layers, held-out noise"
            f" {change}"
        )


def keep(
    step: str,
    names: Sequence[str],
    build: Callable[[frozenset[str]], Exported],
    trial: Trial,
) -> Kept:
    """Try a step on layers; return those on which it lowers the noise of the trial.

    Args:
        step: How reports call it.
        names: The layers that it can be made on, in the model's order.
        build: Makes the model with the step on some of them.
        trial: Holds the samples.
    """
    before = least = trial.judge(build(frozenset())).noise
    kept: frozenset[str] = frozenset()
    parts = [(tuple(names), DEPTH)] if names else []
    while parts:
        part, depth = parts.pop(0)
        noise = trial.judge(build(kept | frozenset(part))).noise
        if noise < least:
            kept, least = kept | frozenset(part), noise
        elif depth and len(part) > 1:
            middle = len(part) // 2
            parts += [(part[:middle], depth - 1), (part[middle:], depth - 1)]
    return Kept(step, kept, len(names), before, least)

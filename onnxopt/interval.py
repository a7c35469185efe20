"""How far a score fell over all held-out samples, and how well so many samples can tell.

drop +- 1.96 deviation / sqrt(n)        at least +- 3 / n where a loss is rare and large
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NORMAL = 1.96
"""Standard deviations to either side that hold 95 % of a normal distribution."""

RARE = 3.0
"""None among n samples is what a share of 3 / n looks like, 1 time in 20."""


@dataclass(frozen=True)
class Verdict:
    """A score over all hold-out samples, compared with the source's.

    Attributes:
        metric: Its name.
        value: Mean score.
        drop: Mean score of the source less `value`; negative where the model got better.
        error: Half width of the 95 % confidence interval of the drop.
        samples: How many samples were scored.
        foreseen: The drop that margins of class scores foresee (`margins`); 0 without class scores.
        deviation: Standard deviation of the drop from sample to sample.
        rare: Whether a loss is rare and large, so that few samples may show none of it.
    """

    metric: str
    value: float
    drop: float
    error: float
    samples: int
    foreseen: float = 0.0
    deviation: float = 0.0
    rare: bool = False

    def breach(self, limit: float, upper: bool = False) -> str:
        """Return how the score breaks a limit, in words; empty if it does not.

        What is foreseen counts where the samples are too few to tell: where their interval is
        wider than the limit.

        Args:
            limit: How far the score may fall.
            upper: Whether the upper end of the interval counts, not the mean.
        """
        if self.drop > limit:
            return f"falls by {self.drop:.4f} (+-{self.error:.4f}), more than {limit:g}"
        if self.error > limit and self.foreseen > limit:
            return (
                f"falls by {self.drop:.4f} on {self.samples} samples, but is going to fall by"
                f" {self.foreseen:.4f} on many, by the margins of their classes: more than"
                f" {limit:g}"
            )
        if upper and self.drop + self.error > limit:
            needed = self.needed(limit)
            return (
                f"may fall by {self.drop + self.error:.4f}, the upper end of its interval on"
                f" {self.samples} held-out samples: more than {limit:g}"
                + ("" if needed is None else f"; with {needed} it could be told")
            )
        return ""

    def needed(self, limit: float) -> int | None:
        """Return how many samples make the interval as narrow as a limit, None if none do."""
        if limit <= 0 or self.samples < 2:
            return None
        spread = (NORMAL * self.deviation / limit) ** 2
        return math.ceil(round(max(spread, RARE / limit if self.rare else 2.0), 6))


def summarize(metric: str, source: list[float], scores: list[float], rare: bool) -> Verdict:
    """Return the mean of a metric, its drop from the source's, and the interval of the drop.

    The interval is at least as wide as what chance can hide (`RARE`) where a loss is rare and
    large, as it also is for functions of a user's that say nothing but 0 and 1.

    Args:
        metric: Its name.
        source: Score of the source on each sample.
        scores: Score of the model on each sample.
        rare: Whether a sample loses rarely, and then much.
    """
    drops = np.asarray(source) - np.asarray(scores)
    n = len(scores)
    deviation = float(np.std(drops, ddof=1)) if n > 1 else 0.0
    rare = rare or (":" in metric and {*source, *scores} <= {0.0, 1.0})
    error = NORMAL * deviation / n**0.5 if n > 1 else float("inf")
    error = max(error, RARE / n if rare else 0.0)
    mean, drop = float(np.mean(scores)), float(np.mean(drops))
    return Verdict(metric, mean, drop, error, n, deviation=deviation, rare=rare)

"""A cut that was chosen, and what the report says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from onnxopt.model import Model
    from onnxopt_passes.prune.groups import Group


@dataclass(frozen=True)
class Chosen:
    """A cut that was chosen.

    Attributes:
        keeps: The indices that stay, of groups that lose some.
        model: The cut model.
        errors: What the curve of a group foretold at its width: squared error as a share of the
            variance of the tensors that it enters, summed over the layers that read it.
        scores: The share of a group's worth that goes, by the criterion, where there is no curve.
        fits: By layer that was fitted, the error on samples held out as a share of the variance of
            its target, before and after.
    """

    keeps: Mapping[str, np.ndarray]
    model: Model
    errors: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    fits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def evidence(self, groups: Sequence[Group]) -> dict[str, object]:
        """Return it as the JSON report has it: `groups` that were open to a cut, and `fits`."""
        rows: list[dict[str, object]] = []
        for g in groups:
            row: dict[str, object] = {
                "name": g.name,
                "members": [m.constant.name for m in g.members],
                "before": g.size,
                "after": len(self.keeps.get(g.name, range(g.size))),
                "soft": g.soft,
            }
            for key, by_name in (("error", self.errors), ("score", self.scores)):
                if g.name in by_name:
                    row[key] = _digits(by_name[g.name])
            rows.append(row)
        fits = {
            name: {"before": _digits(before), "after": _digits(after)}
            for name, (before, after) in self.fits.items()
        }
        return {"groups": rows, "fits": fits}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")

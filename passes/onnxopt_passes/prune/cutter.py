"""From indices that stay, by the names of groups, to a new model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.cut import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.model import Model
    from onnxopt_passes.prune.observe import Lengths


@dataclass(frozen=True)
class Cutter:
    """Cuts clones of one model.

    Attributes:
        observed: Lengths of axes that runs of the model have shown.
    """

    observed: Lengths

    def __call__(self, model: Model, keeps: Mapping[str, np.ndarray]) -> Model:
        """Return a new model without the indices that do not stay.

        Args:
            model: The model, perhaps with other values in its weights; not changed.
            keeps: The indices that stay, ascending; groups without an entry stay whole.
        """
        copy = model.clone()
        analysis = analyse(copy, observed=self.observed)
        sizes = {g.name: g.size for g in analysis.groups}
        cut(analysis, {name: stays(sizes[name], keep) for name, keep in keeps.items()})
        return copy


def stays(size: int, keep: np.ndarray) -> np.ndarray:
    """Return for each of so many indices whether it is among those that stay."""
    found = np.zeros(size, bool)
    found[keep] = True
    return found

"""Accuracy won back layer by layer, in any mode: biases corrected, integers refined.

Each layer is looked at alone, so that what is won for it is the same whatever else is quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt_passes.quant import recovery, refine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy as np

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.readings import Reading
    from onnxopt_passes.quant.refine import Refined
    from onnxopt_passes.quant.trial import Trial

BIASES, ROUNDING = "bias correction", "rounding"
"""The steps, as plans and reports call them."""


@dataclass(frozen=True)
class Item:
    """One layer.

    Attributes:
        reading: What it reads.
        plain: Its weight, rounded to nearest.
        biased: Whether it has a bias, or can be given one.
        most: Largest magnitudes of its integers, of the scales' shape; None for all of the grid.
        overflow: Tells of integers of the weight's shape which indices of the scheme's axis would
            saturate; None where nothing does.
    """

    reading: Reading
    plain: Coded
    biased: bool
    most: np.ndarray | None = None
    overflow: Callable[[np.ndarray], np.ndarray] | None = None

    def refined(self) -> Refined:
        """Return the weight refined; what would saturate stays rounded to nearest."""
        found = refine.refine(self.plain, self.reading, self.biased, self.most)
        if self.overflow is None:
            return found
        return refine.without(found, self.plain, self.overflow(found.coded.integers), self.reading)


@dataclass(frozen=True)
class Won:
    """What steps changed.

    Attributes:
        biases: What is added to biases by name, float64 of shape (outputs,).
        refined: Integers and scales of weights, by name.
    """

    biases: Mapping[str, np.ndarray] = field(default_factory=dict)
    refined: Mapping[str, Coded] = field(default_factory=dict)


Recovered = dict[str, frozenset[str]]
"""Step -> the layers that it is kept for."""


class LayerFit:
    """What layers can win back.

    Args:
        items: The layers, by name, in the model's order.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self.items = items
        self._made: dict[str, Refined] = {}

    def search(
        self,
        mode: str,
        build: Callable[[Won], Exported],
        chosen: Collection[str],
        trial: Trial,
        ctx: Context,
    ) -> Recovered:
        """Return which steps lower the noise of the trial, for which of the chosen layers.

        Args:
            mode: How reports call the part of the model.
            build: Makes a candidate.
            chosen: Layers that are quantized.
            trial: What candidates are held to.
            ctx: Told what was kept.
        """
        able = [name for name in self.items if name in chosen]
        biased = [name for name in able if self.items[name].biased]
        found: Recovered = {}
        for step, names in ((BIASES, biased), (ROUNDING, able)):

            def made(part: frozenset[str], step: str = step) -> Exported:
                return build(self.won(found | {step: part}))

            kept = recovery.keep(step, names, made, trial)
            kept.report(ctx, mode)
            found[step] = kept.names
        return found

    def won(self, recovered: Mapping[str, Collection[str]]) -> Won:
        """Return what steps change on these layers; names that are unknown do nothing."""
        biases: dict[str, np.ndarray] = {}
        refined: dict[str, Coded] = {}
        for name in self._known(recovered.get(BIASES, ())):
            item = self.items[name]
            biases[name] = refine.unrefined(item.plain, item.reading).offsets
        for name in self._known(recovered.get(ROUNDING, ())):
            if name not in self._made:
                self._made[name] = self.items[name].refined()
            refined[name] = self._made[name].coded
            if self.items[name].biased:
                biases[name] = self._made[name].offsets
        return Won(biases, refined)

    def _known(self, names: Collection[str]) -> list[str]:
        return sorted(set(names) & self.items.keys())

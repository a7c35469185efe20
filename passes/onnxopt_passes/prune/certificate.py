"""Proof that a cut is what it says: the cut model equals the original with its slices zeroed.

Zeroing needs none of the algebra that cutting does: if a removed index had a part in anything that
stays, or a slice was taken in the wrong place, the two would differ. They are compared on several
inputs, up to rounding, before any weight is fitted anew. Where they differ, the guilty group is
found by halving and frozen. Of soft groups the original takes its means over what stays (`soft`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.parity import Tolerance, compare
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.cut import cut, mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.model import Exported, Model
    from onnxopt.samples import Feed
    from onnxopt_passes.prune.cut import Keep
    from onnxopt_passes.prune.observe import Lengths

MOST_INPUTS = 4
"""Inputs that are compared on."""


@dataclass(frozen=True)
class Certificate:
    """What a comparison found.

    Attributes:
        groups: How many groups were cut.
        inputs: How many inputs were compared on.
        difference: The largest absolute difference of any output.
        drift: The same, relative to the largest value of that output.
        guilty: Groups that had to be left whole, and why.
    """

    groups: int
    inputs: int
    difference: float
    drift: float
    guilty: dict[str, str]

    def facts(self) -> dict[str, object]:
        """Return it as the JSON report has it."""
        return {
            "groups": self.groups,
            "inputs": self.inputs,
            "max_difference": self.difference,
            "max_drift": self.drift,
            "frozen": dict(self.guilty),
        }


class Certifier:
    """Compares cut and zeroed models on fixed inputs.

    Args:
        model: The model before the cut; not changed.
        feeds: Inputs; those that the model does not run on are left out.
        settings: Threads and custom ops; the graph is always run as it is written.
        observed: Lengths of axes that runs have shown.

    Attributes:
        model: The model.
        observed: The lengths.
        feeds: The inputs that it runs on.
    """

    def __init__(
        self,
        model: Model,
        feeds: Sequence[Feed],
        settings: Settings,
        observed: Lengths | None = None,
    ) -> None:
        self.model, self.observed, self._settings = model, observed or {}, settings
        session = Session(model.export(), settings)
        self.feeds = [feed for feed in feeds if _runs(session, feed)]

    def of(self, model: Model) -> Certifier:
        """Return what certifies cuts of another model on the same inputs."""
        return Certifier(model, self.feeds, self._settings, self.observed)

    def certify(self, keep: Keep) -> tuple[dict[str, np.ndarray], Certificate]:
        """Return the part of a choice that is proven, and how well.

        Args:
            keep: What is to stay of each group.
        """
        left = dict(keep)
        guilty: dict[str, str] = {}
        difference = drift = 0.0
        while left:
            wrong, difference, drift = self._compare(left)
            if wrong is None:
                break
            name = self._guilty(left)
            guilty[name] = (
                wrong if len(left) == 1 else self._compare({name: left[name]})[0] or wrong
            )
            del left[name]
        if not left:
            difference = drift = 0.0
        return left, Certificate(len(left), len(self.feeds), difference, drift, guilty)

    def _guilty(self, keep: Keep) -> str:
        """Return a group without whose cut the others before it would be right."""
        names = list(keep)
        good, bad = 0, len(names)
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._compare({n: keep[n] for n in names[:middle]})[0] is None:
                good = middle
            else:
                bad = middle
        return names[bad - 1]

    def _compare(self, keep: Keep) -> tuple[str | None, float, float]:
        """Return what is wrong with a choice, the largest difference, and the largest drift."""
        zeroed, sliced = self.model.clone(), self.model.clone()
        mask(analyse(zeroed, observed=self.observed), keep)
        cut(analyse(sliced, observed=self.observed), keep)
        return self._difference(zeroed.export(), sliced.export())

    def differs(self, model: Model) -> str | None:
        """Return how another model differs from the uncut one; None where only by rounding."""
        return self._difference(self.model.export(), model.export())[0]

    def _difference(self, reference: Exported, other: Exported) -> tuple[str | None, float, float]:
        """Return what is wrong with a model, and how far it is from a reference."""
        try:
            wanted = self._outputs(reference, self._settings)
            found = self._outputs(other, self._settings)
            tolerance = Tolerance()
            deployed = Settings(True, self._settings.threads, self._settings.custom_ops)
            for a, b in zip(wanted, self._outputs(reference, deployed), strict=True):
                tolerance.learn(a, b)
        except CannotRun as e:
            return f"it does not run: {e}", np.inf, np.inf
        difference = drift = 0.0
        for want, got in zip(wanted, found, strict=True):
            worst, wrong = tolerance.breach(want, got)
            if wrong is not None:
                return f"output {wrong.output!r} {wrong.why}", np.inf, np.inf
            largest = max((d.largest for d in compare(want, got).values()), default=0.0)
            difference, drift = max(difference, largest), max(drift, worst)
        return None, difference, drift

    def _outputs(self, exported: Exported, settings: Settings) -> list[dict[str, Any]]:
        session = Session(exported, settings)
        return [session.run(feed) for feed in self.feeds]


def _runs(session: Session, feed: Feed) -> bool:
    try:
        session.run(feed)
    except CannotRun:
        return False
    return True

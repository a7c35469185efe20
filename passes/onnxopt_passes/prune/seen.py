"""What criteria may look at: the model, a random generator, and what samples show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.prune.budget import CURVES, thinned
from onnxopt_passes.prune.collect import collect
from onnxopt_passes.prune.gates import Gates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.model import Model
    from onnxopt.samples import Samples
    from onnxopt_passes.prune.collect import Read

DEPLOYED = Settings(optimize=True)
"""ORT_ENABLE_ALL: as fast as it gets."""

MOST_RUNS = 20_000
"""Runs of the model that gates are worth; more indices are looked at on fewer samples."""

MOST_SAMPLES, LEAST_SAMPLES = 32, 4
"""Samples on which gates are looked at."""


@dataclass(frozen=True)
class Seen:
    """What is known of a model while its groups are ranked.

    Attributes:
        model: The uncut model.
        samples: Calibration samples, None without.
        seed: For random numbers.
        settings: How the model is loaded.
        indices: How many indices there are to rank.
    """

    model: Model
    samples: Samples | None = None
    seed: int = 0
    settings: Settings = DEPLOYED
    indices: int = 0

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator that depends on the seed and a name alone."""
        return np.random.default_rng([self.seed, *name.encode()])

    @cached_property
    def reads(self) -> Mapping[str, Read]:
        """What layers read, by their names.

        Raises:
            SamplesError: There are no samples.
            CannotRun: The model does not run on them.
        """
        some = thinned(self._given, CURVES)
        layers = linear.find_all(self.model.graph)
        return collect(self.model, layers, some.feeds, some.count(), self.seed, self.settings)

    @cached_property
    def gates(self) -> Gates:
        """The model with gates, on as many samples as `MOST_RUNS` allows.

        Raises:
            SamplesError: There are no samples.
            CannotRun: The model does not run on them.
        """
        count = min(MOST_SAMPLES, max(LEAST_SAMPLES, MOST_RUNS // max(self.indices, 1)))
        feeds = list(thinned(self._given, count).feeds())
        return Gates(self.model, feeds, self.settings)

    @property
    def runs(self) -> int:
        """How often the model was run for its gates."""
        return self.gates.runs if "gates" in self.__dict__ else 0

    @property
    def _given(self) -> Samples:
        if self.samples is None:
            raise SamplesError("prune: this criterion looks at samples: give --calib")
        return self.samples

"""How far the outputs of two models are apart, and how far rounding alone puts them.

The drift of a float output is max |got - want| / max |want|. Its *slice drift* is the largest drift
of one index of one axis (a channel, a box coordinate), where a slice's own max |want| counts, at
least a thousandth of the tensor's: so an output that joins boxes of hundreds of pixels and scores
below one is judged on both. Slices of few elements are not looked at: one logit near zero carries
the rounding of the sum that it comes from. Of integers, booleans and strings both are the share of
elements that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Outputs = dict[str, Any]

SMALL = 1e-6
"""Below this magnitude a tensor counts as zero and drift is absolute."""

SLICE = 1e-3
"""Smallest scale of a slice, relative to its tensor's."""

MARGIN = 16.0
"""Times the noise floor that an exact pass may add; reordering sums is noise of the same kind."""

LOOSE = 1e-2
"""Where the noise floor is so high that the margin would allow more than this, twice the floor must
do: on such inputs outputs prove little, and a wide limit would prove nothing."""

NOISY = 1e-3
"""Noise floors above this are worth saying."""

ROUNDING = {"float64": 128 * 2.0**-23, "float32": 128 * 2.0**-23, "float16": 8 * 2.0**-10}
"""Drift by rounding where the noise floor happens to be zero. float64 outputs are often casts."""

COARSE = 8 * 2.0**-7
"""The same for bfloat16 and narrower."""

LEAST_SLICE = 8
"""Elements that a slice must have."""

SLICE_MARGIN = 100.0
"""Times its own scale's rounding that a slice may be off: it shares sums with larger ones."""

MOST_SLICES = 4096
"""Axes longer than this are not looked at index by index."""


@dataclass(frozen=True)
class Difference:
    """What differs in one output.

    Attributes:
        output: Its name; elements of sequences and maps have theirs behind it.
        drift: See the module; infinite where shapes, types, NaN or Inf positions differ.
        slice_drift: The same, slice by slice.
        largest: The largest absolute difference.
        why: In words, for messages; empty where nothing differs.
    """

    output: str
    drift: float
    slice_drift: float = 0.0
    largest: float = 0.0
    why: str = ""


def compare(want: Outputs, got: Outputs) -> dict[str, Difference]:
    """Compare the outputs of two runs on one sample, name by name."""
    found: dict[str, Difference] = {}
    theirs = dict(flat(got))
    for name, value in flat(want):
        if name not in theirs:
            found[name] = Difference(name, np.inf, np.inf, np.inf, "is missing")
        else:
            found[name] = _difference(name, value, theirs.pop(name))
    for name in theirs:
        found[name] = Difference(name, np.inf, np.inf, np.inf, "is new")
    return found


def flat(outputs: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield all arrays in outputs, those in sequences and maps too, with their names."""
    for name, value in outputs.items():
        if isinstance(value, dict):
            yield from flat({f"{name}[{k!r}]": v for k, v in value.items()})
        elif isinstance(value, (list, tuple)):
            yield f"{name}.length", np.asarray(len(value))
            yield from flat({f"{name}[{i}]": v for i, v in enumerate(value)})
        else:
            yield name, np.asarray(value)


def _difference(name: str, want: np.ndarray, got: np.ndarray) -> Difference:
    if want.shape != got.shape:
        why = f"has shape {list(got.shape)}, not {list(want.shape)}"
        return Difference(name, np.inf, np.inf, np.inf, why)
    if want.dtype != got.dtype:
        return Difference(name, np.inf, np.inf, np.inf, f"has dtype {got.dtype}, not {want.dtype}")
    if want.size == 0:
        return Difference(name, 0.0)
    if is_float(want):
        return _float_difference(name, want, got)
    share = float(np.mean(want != got))
    return Difference(
        name, share, share, share, f"{share:.2%} of its elements differ" if share else ""
    )


def is_float(array: np.ndarray) -> bool:
    """Whether elements are floats, those of ml_dtypes included."""
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and "float" in array.dtype.name)


def _float_difference(name: str, want: np.ndarray, got: np.ndarray) -> Difference:
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    same = np.isnan(a) == np.isnan(b)
    same &= np.isfinite(b) == finite
    infinite = ~finite & ~np.isnan(a)
    if not same.all() or not np.array_equal(a[infinite], b[infinite]):
        return Difference(name, np.inf, np.inf, np.inf, "has NaN or Inf in other places")
    error = np.abs(np.where(finite, b, 0) - np.where(finite, a, 0))
    size = np.abs(np.where(finite, a, 0))
    largest = float(error.max())
    if largest == 0.0:
        return Difference(name, 0.0)
    whole = max(float(size.max()), SMALL)
    drift, sliced = largest / whole, _sliced(error, size, whole)
    return Difference(name, drift, sliced, largest, f"is off by {drift:.2g} of its scale")


def _sliced(error: np.ndarray, size: np.ndarray, whole: float) -> float:
    worst = float(error.max()) / whole
    for axis in range(error.ndim):
        count = error.shape[axis]
        if 1 < count <= MOST_SLICES and error.size >= LEAST_SLICE * count:
            others = tuple(i for i in range(error.ndim) if i != axis)
            scale = np.maximum(size.max(axis=others), max(SLICE * whole, SMALL))
            worst = max(worst, float((error.max(axis=others) / scale).max()))
    return worst


def rounding(array: np.ndarray) -> float:
    """Return the drift that rounding may cause in an output where nothing else is known."""
    if not is_float(array):
        return 0.0
    return ROUNDING.get(array.dtype.name, COARSE)


class Tolerance:
    """How far outputs of an exact rewrite may be from their reference.

    The limit of an output is `MARGIN` times its noise floor, the drift between the same model run
    as it is written and run with all of onnxruntime's optimizations; at least `rounding`.
    Integers may differ in no more places than they do between these two.

    Attributes:
        floors: The noise floor of each output: drift and slice drift.
        skipped: Outputs that differ from run to run (unseeded random operators): not compared.
    """

    def __init__(self) -> None:
        self.floors: dict[str, tuple[float, float]] = {}
        self.skipped: set[str] = set()

    def learn(self, written: Outputs, optimized: Outputs) -> None:
        """Take in one sample's outputs of the reference at both levels."""
        for name, difference in compare(written, optimized).items():
            if np.isfinite(difference.drift):
                a, b = self.floors.get(name, (0.0, 0.0))
                floor = (max(a, difference.drift), max(b, difference.slice_drift))
                self.floors[name] = floor

    def learn_random(self, once: Outputs, again: Outputs) -> None:
        """Take in two runs of the same session on one sample."""
        for name, difference in compare(once, again).items():
            if difference.drift > 0:
                self.skipped.add(name)

    def allows(self, difference: Difference, want: np.ndarray | None) -> bool:
        """Whether rounding explains a difference from `want`."""
        least = 0.0 if want is None else rounding(want)
        drift, sliced = self.floors.get(difference.output, (0.0, 0.0))
        return difference.drift <= max(_limit(drift), least) and (
            difference.slice_drift <= max(_limit(sliced), SLICE_MARGIN * least)
        )

    @property
    def noisy(self) -> list[str]:
        """Names of outputs whose noise floor is so high that they prove little."""
        return sorted(name for name, (drift, _) in self.floors.items() if drift > NOISY)

    @property
    def floor(self) -> float:
        """The largest noise floor of all outputs."""
        return max((drift for drift, _ in self.floors.values()), default=0.0)

    def breach(self, want: Outputs, got: Outputs) -> tuple[float, Difference | None]:
        """Return the largest drift, and the first output that is over its limit."""
        arrays = dict(flat(want))
        worst, guilty = 0.0, None
        for name, difference in compare(want, got).items():
            if name in self.skipped:
                continue
            worst = max(worst, difference.drift)
            if guilty is None and not self.allows(difference, arrays.get(name)):
                guilty = difference
        return worst, guilty


def _limit(floor: float) -> float:
    return min(MARGIN * floor, max(LOOSE, 2 * floor))

"""How far the outputs of two model files are apart, output by output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxopt.errors import SamplesError
from onnxopt.parity import Tolerance, compare, flat
from onnxopt.runtime import CannotRun, Session, Settings

if TYPE_CHECKING:
    from onnxopt.job import Progress
    from onnxopt.model import Exported
    from onnxopt.parity import Outputs
    from onnxopt.samples import Feed, Samples


@dataclass
class Numbers:
    """What a comparison found.

    Attributes:
        compared: On how many samples.
        reason: Why nothing could be compared, or where B fails; empty if all is well.
        floor: The noise floor of A.
        drifts: The worst drift of each output.
        largest: The largest absolute difference of each output.
        beyond: Outputs that differ by more than rounding explains, and how.
        random: Outputs that differ from run to run: not compared.
    """

    compared: int = 0
    reason: str = ""
    floor: float = 0.0
    drifts: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, str] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether outputs were compared, and differ by rounding at most."""
        return self.compared > 0 and not self.reason and not self.beyond


def measure(
    a: Exported, b: Exported, samples: Samples, settings: Settings, progress: Progress
) -> Numbers:
    """Run both models on all samples: as they are written, and as onnxruntime optimizes them.

    Args:
        a: The reference.
        b: The other model.
        samples: What to feed.
        settings: Threads and libraries.
        progress: Told how far it is.

    Raises:
        SamplesError: A cannot be run on a sample that was not drawn.
    """
    found = Numbers()
    levels = [
        Settings(optimize, settings.threads, settings.custom_ops, lean=not optimize)
        for optimize in (False, True)
    ]
    try:
        ours = [Session(a, level) for level in levels]
    except CannotRun as e:
        found.reason = f"onnxruntime cannot load A: {e}"
        return found
    try:
        theirs = [Session(b, level) for level in levels]
    except CannotRun as e:
        found.reason = f"onnxruntime cannot load B: {e}"
        return found
    names = {p.name for p in b.inputs}
    missing = [p.name for p in b.inputs if p.required and p.name not in {q.name for q in a.inputs}]
    if missing:
        found.reason = f"B needs inputs that A does not have: {', '.join(missing)}"
        return found
    tolerance = Tolerance()
    rows = _rows(ours, samples, tolerance, found, progress)
    for number, (feed, want) in enumerate(rows):
        part = {name: value for name, value in feed.items() if name in names}
        try:
            for session, outputs in zip(theirs, want, strict=True):
                _note(found, tolerance, outputs, session.run(part))
        except CannotRun as e:
            found.reason = f"B fails on sample {number}, on which A runs: {e}"
            break
        found.compared += 1
    found.floor = tolerance.floor
    found.random = sorted(tolerance.skipped)
    return found


def _rows(
    sessions: list[Session],
    samples: Samples,
    tolerance: Tolerance,
    found: Numbers,
    progress: Progress,
) -> list[tuple[Feed, list[Outputs]]]:
    """Return feeds that A runs on, with its outputs at both levels, and learn their noise."""
    rows: list[tuple[Feed, list[Outputs]]] = []
    trouble = ""
    for number, sample in enumerate(samples):
        progress("running A", number / max(1, samples.count()))
        try:
            outputs = [session.run(sample.feed) for session in sessions]
            tolerance.learn_random(outputs[0], sessions[0].run(sample.feed))
            tolerance.learn(*outputs)
        except CannotRun as e:
            if not samples.synthetic:
                where = f"{samples.source}: A cannot be run on sample {number}"
                raise SamplesError(f"{where}: {e}") from e
            trouble = str(e)
        else:
            rows.append((sample.feed, outputs))
    if not rows:
        found.reason = f"A runs on no input that could be drawn, give --calib PATH: {trouble}"
    progress("running B", 0.0)
    return rows


def _note(found: Numbers, tolerance: Tolerance, want: Outputs, got: Any) -> None:
    arrays = dict(flat(want))
    for name, difference in compare(want, got).items():
        if name in tolerance.skipped:
            continue
        found.drifts[name] = max(found.drifts.get(name, 0.0), difference.drift)
        found.largest[name] = max(found.largest.get(name, 0.0), difference.largest)
        if not tolerance.allows(difference, arrays.get(name)):
            found.beyond.setdefault(name, difference.why)

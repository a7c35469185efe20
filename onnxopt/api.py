"""The whole job: load, run passes, prove, time, write, report."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import onnx
from google.protobuf.message import DecodeError

from onnxopt import __version__, details, latency, metrics, pipeline, report, spec
from onnxopt.errors import ModelError, NoopError, OutputError, SlowerError, SpecError
from onnxopt.job import Job, quiet
from onnxopt.model import Exported, Model, files
from onnxopt.proof import Terms
from onnxopt.samples import Preprocess, Samples, open_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from onnxopt.base import Pass
    from onnxopt.job import Progress, Run, Step

    Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Model | Program"
    Calibration = str | os.PathLike[str] | Samples | Iterable[Mapping[str, np.ndarray]]


class Program(Protocol):
    """What `torch.onnx.export` returns, or anything else that knows its message."""

    @property
    def model_proto(self) -> onnx.ModelProto:
        """The model as one message."""


TARGETS = ("portable", "ort-cpu")

TIMED = 1.5
"""Seconds to spend on timing the two models in turn."""


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        exported: The optimized model as messages, its large weights beside them.
        steps: One a pass.
        report: The same as `--json` prints.
    """

    exported: Exported
    steps: tuple[Step, ...]
    report: dict[str, Any]

    @property
    def model(self) -> onnx.ModelProto:
        """The optimized model as one message.

        Raises:
            ModelError: It is larger than 2 GiB: read the file instead.
        """
        return self.exported.whole()


def optimize(
    model: Source,
    passes: str | tuple[Pass, ...] = "clean,fuse",
    calibration: Calibration | None = None,
    output: str | os.PathLike[str] | None = None,
    max_drop: float = 0.01,
    metric: str | None = None,
    target: str = "portable",
    seed: int = 0,
    *,
    threads: int = 1,
    preprocess: str | Preprocess | None = None,
    custom_ops: Iterable[str] = (),
    require_proof: bool | None = None,
    allow_synthetic: bool = False,
    allow_slower: bool = False,
    fail_on_noop: bool = False,
    upper_bound: bool = False,
    external_data: bool = False,
    timing: bool = True,
    detail: bool = False,
    pass_timeout: float = 1800.0,
    repro: str | os.PathLike[str] | None = None,
    progress: Progress = quiet,
) -> Result:
    """Make a model smaller and faster, and prove that it still does the same job.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes, what `torch.onnx.export` returns, or an
            `onnxopt.Model`; never changed.
        passes: Pipeline text, as `"clean,fuse"`, or passes.
        calibration: Any source of samples, see `onnxopt.samples.open_samples`. Some of them are
            held out for the proof. Without samples, inputs are drawn from the interface; only
            exact passes do with that.
        output: Where to write; may be the source's own path. None keeps the result in memory.
        max_drop: How far the score may fall, for lossy passes.
        metric: Name of a score, `module:function`, or None to choose by the outputs.
        target: `portable`, or `ort-cpu` for what only onnxruntime on this CPU gains from.
        seed: Seeds everything random.
        threads: Threads of onnxruntime.
        preprocess: How image files become inputs.
        custom_ops: Libraries of custom operators for onnxruntime.
        require_proof: Refuse where outputs cannot be compared; None: lossy passes refuse.
        allow_synthetic: Let lossy passes do without real samples.
        allow_slower: Write even what measures slower than the source.
        fail_on_noop: Refuse a result that a lossy pass had no part in.
        upper_bound: Hold the upper end of the drop's 95 % interval to `max_drop`, not its mean: few
            samples are then refused.
        external_data: Keep large weights in a file beside the model.
        timing: Whether to measure latency; without, a slower result is not noticed.
        detail: Whether the report also tells where the time goes, and lists all nodes before and
            after: what the page of `onnxopt report` shows beyond the figures.
        pass_timeout: Seconds after which a pass is taken to loop.
        repro: Folder to save models and inputs in that show each edit that had to be undone.
        progress: Told what is being done.

    Raises:
        InputError: The model, the samples, the pipeline or the output path are wrong.
        ProofError: The result may not be written: it is not equal, not good enough, not proven,
            or slower.
        PassError: A pass is broken.
    """
    start = time.perf_counter()
    if target not in TARGETS:
        raise SpecError(f"target {target!r} is unknown; there are: {', '.join(TARGETS)}")
    metrics.check(metric)
    libraries = tuple(str(Path(library)) for library in custom_ops)
    for library in libraries:
        if not Path(library).is_file():
            raise SpecError(f"there is no library of custom operators at {library}")
    if preprocess is not None and calibration is None:
        raise SpecError("preprocess is for image files, but no calibration data are given")
    chosen = spec.complete(spec.parse(passes) if isinstance(passes, str) else tuple(passes))
    loaded = _load(model)
    destination = None if output is None else _destination(output)
    samples = _samples(loaded, calibration, preprocess)
    terms = Terms(max_drop, metric, threads, libraries, seed, upper_bound)
    kept = None if repro is None else Path(repro)
    job = Job(
        chosen,
        terms,
        target,
        require_proof,
        allow_synthetic,
        pass_timeout,
        progress,
        kept,
        staged=detail,
    )
    run = pipeline.run(loaded, job, samples)
    if fail_on_noop:
        _demand_edits(run)
    times = _times(run, progress) if timing else None
    if times is not None and times.slower and not allow_slower:
        raise SlowerError(
            f"the result takes {times.ratio:.2f} times as long as the source, so nothing is"
            " written; leave out the pass that costs, or give --allow-slower"
        )
    if destination is not None:
        files.write(destination, run.result.proto, run.result.weights, external_data)
    more = details.build(run, timing, progress) if detail else None
    seconds = time.perf_counter() - start
    found = report.build(run, times, __version__, loaded.path, destination, seconds, more)
    return Result(run.result, run.steps, found)


def _demand_edits(run: Run) -> None:
    for item, step in zip(run.passes, run.steps, strict=True):
        if not item.exact and not step.edits:
            said = "; ".join(step.notes) or "it says nothing of it"
            raise NoopError(f"{step.spec} changed nothing, so nothing is written: {said}")


def _load(model: Source) -> Model:
    """Return any source as a model.

    Raises:
        ModelError: It is no model.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return Model.load(model)
    if isinstance(model, (bytes, bytearray, memoryview)):
        try:
            return Model.from_proto(onnx.ModelProto.FromString(bytes(model)))
        except DecodeError as e:
            raise ModelError("these bytes are not an ONNX model, or are cut short") from e
    proto = model if isinstance(model, onnx.ModelProto) else getattr(model, "model_proto", None)
    if not isinstance(proto, onnx.ModelProto):
        kind = type(model).__name__
        raise ModelError(
            f"a {kind} is no model; give a path, bytes, a ModelProto or an ONNXProgram"
        )
    return Model.from_proto(proto)


def _samples(
    model: Model, calibration: Calibration | None, preprocess: str | Preprocess | None
) -> Samples | None:
    if calibration is None:
        return None
    if isinstance(preprocess, str):
        preprocess = Preprocess.parse(preprocess)
    return open_samples(calibration, model.export().inputs, preprocess=preprocess)


def _destination(output: str | os.PathLike[str]) -> Path:
    """Refuse before any work what could not be written after it."""
    path = Path(output)
    if path.is_dir():
        raise OutputError(f"{path} is a directory; give the name of a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: the folder may not be written to")
    return path


def _times(run: Run, progress: Progress) -> latency.Latency | None:
    feed = run.proof.first_feed()
    if feed is None:
        return None
    progress("timing", 0.0)
    settings = run.proof.terms.settings(True)
    return latency.measure(run.source, run.result, feed, settings, TIMED)

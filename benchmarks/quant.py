"""Bytes, latency and noise of quantized models, beside onnxruntime's own quantizer.

    python benchmarks/quant.py models/digits_dscnn.onnx models/digits_dscnn.calib.npz

Columns: bytes and time over those of the source, least of runs in turn on one thread, and the
relative squared error of the outputs on samples that no tool was given.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime import quantization as ort_quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxopt
from onnxopt.model import Exported, Model
from onnxopt.runtime import Session, Settings, interleave
from onnxopt.samples import open_samples
from onnxopt_passes.quant.trial import relative

CALIBRATION = 100
"""Samples that tools are given."""

CHECKED = 50
"""Samples that noise is measured on."""

Maker = Callable[[Path, Path, list[dict[str, Any]]], None]
"""(source, result, samples) -> nothing; writes the result."""


class Feeds(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Samples as onnxruntime's quantizer wants them."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample."""
        return next(self.feeds, None)


def default(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what `quantize_static` makes if it is told nothing."""
    ort_quantization.quantize_static(source, result, Feeds(feeds))


def u8s8(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what onnxruntime's documentation advises for x64, after its pre-processing."""
    prepared = result.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    kind = ort_quantization.QuantType
    ort_quantization.quantize_static(
        prepared,
        result,
        Feeds(feeds),
        per_channel=True,
        activation_type=kind.QUInt8,
        weight_type=kind.QInt8,
    )


def dynamic(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what `quantize_dynamic` makes a channel."""
    ort_quantization.quantize_dynamic(source, result, per_channel=True)


TOOLS: dict[str, Maker] = {
    "onnxruntime static": default,
    "onnxruntime static U8S8": u8s8,
    "onnxruntime dynamic": dynamic,
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples")
    args = parser.parse_args()
    source = Model.load(args.model).export()
    samples = open_samples(args.samples, source.inputs)
    given, checked = samples.split(0.3)
    feeds = list(itertools.islice(given.feeds(), CALIBRATION))
    candidates = {"source": source}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in TOOLS.items():
            result = Path(folder) / f"{name.replace(' ', '_')}.onnx"
            make(args.model, result, feeds)
            candidates[name] = Exported(onnx.load(result), {})
    made = onnxopt.optimize(args.model, "quant", args.samples, timing=False)
    candidates["onnxopt"] = Exported(made.model, {})
    _show(source, candidates, list(itertools.islice(checked.feeds(), CHECKED)))


def _show(source: Exported, candidates: dict[str, Exported], feeds: list[dict[str, Any]]) -> None:
    sessions = {name: Session(m, Settings(True)) for name, m in candidates.items()}
    times = interleave(list(sessions.values()), feeds[0], 3.0, 400)
    print(f"{'':26}{'bytes':>8}{'time':>8}{'noise':>10}")
    for (name, session), time in zip(sessions.items(), times, strict=True):
        pairs = ((sessions["source"].run(f), session.run(f)) for f in feeds)
        noise = sum(relative(want, got) for want, got in pairs) / len(feeds)
        size = candidates[name].nbytes / source.nbytes
        print(f"{name:26}{size:8.2f}{time.minimum / times[0].minimum:8.2f}{noise:10.2g}")


if __name__ == "__main__":
    main()

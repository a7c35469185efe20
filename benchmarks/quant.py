"""Bytes, latency, noise and score of quantized models, beside the quantizers of others.

    python benchmarks/quant.py models/digits_dscnn.onnx models/digits_dscnn.calib.npz
    python benchmarks/quant.py --task zoo:NAME --task zoo:OTHER

Others are onnxruntime's own, and NNCF's, AIMET's and onnxsim's if installed (`quantizers`).

Columns: bytes and time over those of the source, median and least of runs in turn on one thread;
the relative squared error of the outputs on samples that no tool was given; the score. A task is
`module:name`: `module.load(name)` gives an object with `path`, `score(path)` and
`export_calib(path)`, which returns where it has written; without one there is no score.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from quantizers import TOOLS

import onnxopt
from onnxopt.model import Exported, Model
from onnxopt.runtime import Session, Settings, interleave
from onnxopt.samples import open_samples
from onnxopt_passes.quant.trial import relative

if TYPE_CHECKING:
    from collections.abc import Callable

CALIBRATION = 100
"""Samples that tools are given."""

CHECKED = 50
"""Samples that noise is measured on."""


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("samples", nargs="?")
    parser.add_argument("--task", action="append", default=[])
    parser.add_argument("--passes", default="quant", help="what onnxopt is asked for")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.model is not None:
            print(f"\n{args.model.name}")
            compare(args.model, args.samples, args.passes, Path(folder), None)
        for name in args.task:
            module, _, key = name.partition(":")
            task = importlib.import_module(module).load(key)
            samples = task.export_calib(Path(folder) / f"{key}.calib.npz")
            print(f"\n{key}: {task.metric}")
            compare(Path(task.path), str(samples), args.passes, Path(folder), task.score)


def compare(
    path: Path,
    given: str,
    passes: str,
    folder: Path,
    score: Callable[[str], float] | None,
) -> None:
    """Quantize a model with each tool, and print what came out."""
    source = Model.load(path).export()
    samples = open_samples(given, source.inputs)
    fit, checked = samples.split(0.3)
    feeds = list(itertools.islice(fit.feeds(), CALIBRATION))
    files: dict[str, Path] = {"source": path}
    for name, make in TOOLS.items():
        files[name] = folder / f"{path.stem}.{name.replace(' ', '_')}.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                make(path, files[name], feeds)
            Session(Exported(onnx.load(files[name]), {}), Settings(True)).run(feeds[0])
        except Exception as e:  # noqa: BLE001  # whatever a peer raises is its result
            print(f"{name:26}{type(e).__name__}: {' '.join(str(e).split())[:80]}")
            del files[name]
    files["onnxopt"] = folder / f"{path.stem}.onnxopt.onnx"
    fitted = fit.take(10**6)
    onnxopt.optimize(path, passes, fitted, files["onnxopt"], timing=False)
    _show(source, files, list(itertools.islice(checked.feeds(), CHECKED)), score)


def _show(
    source: Exported,
    files: dict[str, Path],
    feeds: list[dict[str, Any]],
    score: Callable[[str], float] | None,
) -> None:
    models = {name: Exported(onnx.load(path), {}) for name, path in files.items()}
    sessions = {name: Session(m, Settings(True)) for name, m in models.items()}
    times = interleave(list(sessions.values()), feeds[0], 3.0 * len(sessions), 400)
    print(f"{'':26}{'bytes':>8}{'median':>8}{'least':>8}{'noise':>10}{'score':>9}")
    for (name, session), time in zip(sessions.items(), times, strict=True):
        pairs = ((sessions["source"].run(f), session.run(f)) for f in feeds)
        noise = sum(relative(want, got) for want, got in pairs) / len(feeds)
        size = models[name].nbytes / source.nbytes
        median, least = time.median / times[0].median, time.minimum / times[0].minimum
        print(f"{name:26}{size:8.2f}{median:8.2f}{least:8.2f}{noise:10.2g}", end="")
        print("" if score is None else f"{score(str(files[name])):9.4f}", flush=True)


if __name__ == "__main__":
    main()

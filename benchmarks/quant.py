"""Bytes, latency, noise and score of quantized models, beside the quantizers of others.

    python benchmarks/quant.py models/digits_dscnn.onnx models/digits_dscnn.calib.npz
    python benchmarks/quant.py --task zoo:NAME --task zoo:OTHER --json results.json

Others are onnxruntime's own, and NNCF's, AIMET's and onnxsim's if installed (`quantizers`). One
that takes longer than the limit is stopped.

Columns: bytes and time over those of the source, median and least of runs in turn on one thread, in
the thread's own time; the relative squared error of the outputs on samples that no tool was given;
the score. A task is `module:name`: `module.load(name)` gives an object with `path`, `metric`,
`score(path)` and `export_calib(path)`, which returns where it has written; without one there is no
score. `quant_table.py` makes a table of what --json has written.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import quantizers

import onnxopt
from onnxopt.model import Exported, Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import open_samples
from onnxopt.timing import clock, interleave
from onnxopt_passes.quant.trial import relative

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt.samples import Samples

CALIBRATION = 100
"""Samples that others are given."""

CHECKED = 50
"""Samples that noise is measured on."""


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("samples", nargs="?")
    parser.add_argument("--task", action="append", default=[])
    parser.add_argument("--passes", default="quant", help="what onnxopt is asked for")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that others may take")
    parser.add_argument("--keep", type=Path, help="folder of files: those that are there are used")
    parser.add_argument("--json", type=Path, help="file to put results into, by the model's name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.folder = args.keep or Path(folder)
        args.folder.mkdir(parents=True, exist_ok=True)
        if args.model is not None:
            compare(args.model.stem, args.model, args.samples, args, None)
        for name in args.task:
            module, _, key = name.partition(":")
            task = importlib.import_module(module).load(key)
            samples = task.export_calib(Path(folder) / f"{key}.calib.npz")
            compare(f"{key}: {task.metric}", Path(task.path), str(samples), args, task.score)


def compare(
    title: str,
    path: Path,
    given: str,
    args: argparse.Namespace,
    score: Callable[[str], float] | None,
) -> None:
    """Quantize a model with each tool, print what came out, and keep it if that is asked for."""
    source = Model.load(path).export()
    fit, checked = open_samples(given, source.inputs).split(0.3)
    feeds = list(itertools.islice(fit.feeds(), CALIBRATION))
    print(f"\n{title}; others are given {len(feeds)} samples, onnxopt {fit.count()}", flush=True)
    files = {"source": path, **_others(path, feeds, args)}
    files["onnxopt"] = _ours(path, fit, args)
    rows = _measure(source, files, list(itertools.islice(checked.feeds(), CHECKED)), score)
    if args.json is not None:
        stored = json.loads(args.json.read_text()) if args.json.exists() else {}
        stored[title] = {"samples": [len(feeds), fit.count()], "rows": rows}
        args.json.write_text(json.dumps(stored, indent=1))


def _others(path: Path, feeds: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Path]:
    """Return the files that load, of tools by name; print why others have none."""
    files: dict[str, Path] = {}
    for name in quantizers.TOOLS:
        file = _file(path, name, args)
        began = time.monotonic()
        why = "" if file.exists() else quantizers.make(name, path, file, feeds, args.limit)
        why = why or _refused(file, feeds[0])
        if why:
            file.unlink(missing_ok=True)
            print(f"{name:26}{why}", flush=True)
            continue
        print(f"{name:26}made in {time.monotonic() - began:.0f} s", flush=True)
        files[name] = file
    return files


def _file(path: Path, tool: str, args: argparse.Namespace) -> Path:
    """Return where a tool's file goes; models of tasks may all be called the same."""
    model = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return Path(args.folder) / f"{path.stem}.{model}.{tool.replace(' ', '_')}.onnx"


def _refused(file: Path, feed: dict[str, Any]) -> str:
    """Return why a file does not run; "" if it does."""
    try:
        Session(Exported(onnx.load(file), {}), Settings(True)).run(feed)
    except onnxopt.OnnxoptError as e:
        return f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
    return ""


def _ours(path: Path, fit: Samples, args: argparse.Namespace) -> Path:
    file = _file(path, "onnxopt", args)
    if not file.exists():
        began = time.monotonic()
        onnxopt.optimize(path, args.passes, fit.take(fit.count()), file, timing=False)
        print(f"{'onnxopt':26}made in {time.monotonic() - began:.0f} s", flush=True)
    return file


def _measure(
    source: Exported,
    files: dict[str, Path],
    feeds: list[dict[str, Any]],
    score: Callable[[str], float] | None,
) -> dict[str, dict[str, float]]:
    models = {name: Exported(onnx.load(path), {}) for name, path in files.items()}
    sessions = {name: Session(m, Settings(True)) for name, m in models.items()}
    budget, own = 3.0 * len(sessions), clock(1)
    times = interleave(list(sessions.values()), feeds[0], budget, 400, clock=own)
    print(f"{'':26}{'bytes':>8}{'median':>8}{'least':>8}{'noise':>10}{'score':>9}")
    rows: dict[str, dict[str, float]] = {}
    for (name, session), timed in zip(sessions.items(), times, strict=True):
        pairs = ((sessions["source"].run(f), session.run(f)) for f in feeds)
        row = rows[name] = {
            "bytes": models[name].nbytes / source.nbytes,
            "median": timed.median / times[0].median,
            "least": timed.minimum / times[0].minimum,
            "noise": sum(relative(want, got) for want, got in pairs) / len(feeds),
        }
        print(f"{name:26}{row['bytes']:8.2f}{row['median']:8.2f}{row['least']:8.2f}", end="")
        print(f"{row['noise']:10.2g}", end="", flush=True)
        if score is not None:
            row["score"] = float(score(str(files[name])))
        print(f"{row['score']:9.4f}" if "score" in row else "", flush=True)
    return rows


if __name__ == "__main__":
    main()

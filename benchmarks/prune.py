"""What `prune` leaves of a model within a budget, beside magnitude pruning of the same graph.

    python benchmarks/prune.py models/digits_resnet.onnx models/digits_resnet.calib.npz
    python benchmarks/prune.py --task zoo:NAME --samples 2000 --ask macs=0.5 --ask latency=0.6

Columns: multiply-accumulates and time over those of the source, time as median and least of runs in
turn on one thread; agreement with the source on samples that nothing was chosen on; the score;
seconds and peak of memory of the run. `l1` cuts the same share of every group by the magnitude of
weights and fits nothing: what tools for pruning do before any training. A task is as in `quant.py`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import cost
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import Samples, open_samples
from onnxopt.timing import interleave

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKED = 200
"""Samples that agreement is measured on."""

SECONDS = 4.0
"""Time spent on timing one model."""

TOOLS = {"onnxopt": "", "l1": ":criterion=l1:compensate=none"}
"""What is asked for, beside the budget."""

ANY_DROP = "1"
"""The run's --max-drop: what a budget costs is what is to be seen."""


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("samples_file", nargs="?")
    parser.add_argument("--task", action="append", default=[])
    parser.add_argument("--samples", type=int, default=10**6, help="how many to calibrate with")
    parser.add_argument("--ask", action="append", default=[], help="a budget, as macs=0.5")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is not None:
            compare(args.model, args.samples_file, args.samples, args.ask, folder, None)
        for key in args.task:
            module, _, task_name = key.partition(":")
            task = importlib.import_module(module).load(task_name)
            given = task.export_calib(folder / f"{task_name}.calib.npz")
            compare(Path(task.path), str(given), args.samples, args.ask, folder, task.score)


def compare(
    path: Path,
    given: str,
    most: int,
    asked: list[str],
    folder: Path,
    score: Callable[[str], float] | None,
) -> None:
    """Prune a model to each budget, and print what came out."""
    fit, checked = open_samples(given, Model.load(path).export().inputs).split(0.1)
    feeds = list(itertools.islice(checked.feeds(), CHECKED))
    samples = _written(fit, most, folder)
    source = folder / "source.onnx"
    _run(path, ["clean,fuse"], source)
    print(f"\n{path.name}")
    print(f"{'':24}{'MACs':>7}{'median':>8}{'least':>7}{'agree':>8}{'score':>8}{'s':>7}{'MB':>7}")
    rows = [("source", source, (0.0, 0.0))]
    for ask in asked or ["macs=0.7"]:
        for name, options in TOOLS.items():
            if name == "l1" and ask.startswith("latency"):
                continue  # it has no samples to time on
            made = folder / f"{name}.{ask}.onnx"
            spec = [f"prune:{ask}{options}", "--calib", samples, "--max-drop", ANY_DROP]
            rows.append((f"{name} {ask}", made, _run(path, spec, made)))
    _show([row for row in rows if row[1].exists()], feeds, score)


def _written(samples: Samples, most: int, folder: Path) -> str:
    """Write some samples, an .npz each, and return the folder."""
    into = folder / "samples"
    into.mkdir(exist_ok=True)
    for old in into.iterdir():
        old.unlink()
    for i, feed in enumerate(itertools.islice(samples.feeds(), most)):
        np.savez(into / f"{i:06}.npz", **feed)
    return str(into)


def _run(path: Path, spec: list[str], result: Path) -> tuple[float, float]:
    """Run onnxopt in a process of its own; return its seconds and its peak of memory in MB."""
    command = [sys.executable, "-m", "onnxopt", "run", str(path), "--passes", *spec]
    command += ["--allow-slower", "-o", str(result)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        print(f"{' '.join(spec)}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def _show(
    rows: list[tuple[str, Path, tuple[float, float]]],
    feeds: list[dict[str, Any]],
    score: Callable[[str], float] | None,
) -> None:
    models = [Model.load(path).export() for _, path, _ in rows]
    sessions = [Session(model, Settings(optimize=True)) for model in models]
    times = interleave(sessions, feeds[0], SECONDS * len(sessions))
    macs = [cost.measure(model, feeds[0]).macs for model in models]
    wanted = [sessions[0].run(feed) for feed in feeds]
    for i, (name, path, (seconds, peak)) in enumerate(rows):
        got = [sessions[i].run(feed) for feed in feeds]
        agreed = np.mean([_agree(a, b) for a, b in zip(wanted, got, strict=True)])
        median, least = times[i].median / times[0].median, times[i].minimum / times[0].minimum
        print(f"{name:24}{macs[i] / macs[0]:7.2f}{median:8.2f}{least:7.2f}{agreed:8.3f}", end="")
        print(f"{'':8}" if score is None else f"{score(str(path)):8.4f}", end="")
        print(f"{seconds:7.0f}{peak:7.0f}", flush=True)


def _agree(wanted: dict[str, Any], got: dict[str, Any]) -> float:
    """Return the share of rows of the first output with the same largest entry."""
    name = next(iter(wanted))
    return float(np.mean(np.argmax(wanted[name], -1) == np.argmax(got[name], -1)))


if __name__ == "__main__":
    main()

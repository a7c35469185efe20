"""What `clean,fuse` is worth to onnxruntime on whole models, for both targets.

Every model is optimized with its proof. The source and the result then run in turn as onnxruntime
loads them by default (ORT_ENABLE_ALL, one thread, the thread's own clock), in several sessions of
each. Above 1 the result is faster: by the least of all runs, and by the median ratio of pairs. The
time to load and the bytes are those of the portable result, over those of the source and of
onnxslim's; below 1 it is better.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import real_models
import tools
from loading import session
from pairs import in_rounds
from real_models import Entry
from tables import geometric_mean, number, progress, table
from worker import Worker

import onnxopt
from onnxopt.errors import OnnxoptError
from onnxopt.model import Model

TARGETS = ("portable", "ort-cpu")

ROUNDS = 8
"""Sessions of each model: beside other work, the median of fewer moves by some hundredths."""

LOADS = 12
"""How often each file is loaded."""


@dataclass(frozen=True)
class Speed:
    """Ratios of a model's source and results.

    Attributes:
        milliseconds: Least and median time of the source.
        faster: By target: source over result, by the least and by the median of pairs.
        load: The portable result's time to load over the source's, and over onnxslim's.
        size: The portable result's bytes over the source's.
    """

    milliseconds: tuple[float, float]
    faster: dict[str, tuple[float, float]]
    load: tuple[float, float]
    size: float


def measured(entry: Entry, folder: Path, slim: Worker) -> Speed:
    """Optimize a model for both targets, and time what comes out."""
    source = Model.load(entry.path).export()
    feed = real_models.feed(entry.name, source.inputs)
    faster: dict[str, tuple[float, float]] = {}
    times: list[float] = []
    for target in TARGETS:
        path = folder / f"{target}.onnx"
        try:
            onnxopt.optimize(entry.path, "clean,fuse", output=path, target=target, timing=False)
        except OnnxoptError as e:
            progress("latency", entry.name, target, f"refused: {e}")
            faster[target] = (math.nan, math.nan)
            continue
        old, new = in_rounds(source, Model.load(path).export(), feed, ROUNDS)
        pairs = median(a / b for a, b in zip(old, new, strict=True))
        faster[target] = (min(old) / min(new), pairs)
        times += old
    theirs = folder / "onnxslim.onnx"
    slim.ask(tools.onnxslim, entry.path, theirs)
    ours = folder / "portable.onnx"
    return Speed(
        (1e3 * min(times, default=math.nan), 1e3 * median(times or [math.nan])),
        faster,
        loads(ours, entry.path, theirs),
        ours.stat().st_size / entry.path.stat().st_size if ours.exists() else math.nan,
    )


def loads(ours: Path, *others: Path) -> tuple[float, float]:
    """Return the least time to load a file over that of each other one, NaN where there is none."""
    paths = [p for p in (ours, *others) if p.exists()]
    least = dict.fromkeys((ours, *others), math.nan)
    for turn in range(LOADS):
        for path in paths if turn % 2 else reversed(paths):
            start = time.perf_counter()
            session(path)
            took = time.perf_counter() - start
            least[path] = took if math.isnan(least[path]) else min(took, least[path])
    source, peer = (least[ours] / least[p] for p in others)
    return source, peer


def row(name: str, found: Speed) -> list[str]:
    """Return the cells of a model."""
    ratios = [number(r) for target in TARGETS for r in found.faster[target]]
    rest = [number(r, 2) for r in (*found.load, found.size)]
    return [name, " / ".join(map(number, found.milliseconds)), *ratios, *rest]


def means(speeds: list[Speed]) -> list[str]:
    """Return the cells of the geometric means."""
    ratios = [
        number(geometric_mean(s.faster[target][i] for s in speeds))
        for target in TARGETS
        for i in (0, 1)
    ]
    rest = [[s.load[0] for s in speeds], [s.load[1] for s in speeds], [s.size for s in speeds]]
    return ["geometric mean", "", *ratios, *(number(geometric_mean(r), 2) for r in rest)]


def main() -> None:
    """Measure and print."""
    parser = real_models.arguments(__doc__ or "")
    options = parser.parse_args()
    rows: list[list[str]] = []
    speeds: list[Speed] = []
    with Worker() as slim:
        for entry in real_models.chosen(options, light=False):
            with tempfile.TemporaryDirectory() as folder:
                speeds.append(measured(entry, Path(folder), slim))
            rows.append(row(entry.name, speeds[-1]))
            progress("latency", *rows[-1])
    head = ["model", "source ms", "portable", "by pairs", "ort-cpu", "by pairs"]
    head += ["load / source", "load / onnxslim", "bytes / source"]
    print(f"{__doc__}\nSource: least / median.\n\n{table(head, [*rows, means(speeds)])}")


if __name__ == "__main__":
    main()

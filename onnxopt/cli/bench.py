"""`onnxopt bench`: how fast are one or two models here, and how much memory do they take?"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import kernels, options, tables, terminal
from onnxopt.errors import ModelError, SamplesError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxopt.model import Exported
    from onnxopt.runtime import Settings

    Facts = dict[str, Any]

SCHEMA_VERSION = 1

ROUNDS = 1_000_000
"""Time is the limit, not the number of runs."""


@click.command(
    "bench",
    epilog=options.examples(
        "onnxopt bench model.onnx model.opt.onnx --calib data.npz --threads 4",
    ),
)
@click.argument("a", type=options.FILE)
@click.argument("b", type=options.FILE, required=False)
@options.calib
@options.threads
@click.option(
    "--seconds", type=options.Number(0, 3600, min_open=True), default=3.0, show_default=True,
    metavar="S", help="How long to time.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help="Also show which kernels take the time.")
@options.seed
@options.custom_ops
@options.as_json
def command(
    a: Path,
    b: Path | None,
    calib: str | None,
    preprocess: str | None,
    threads: int,
    seconds: float,
    profile: bool,
    seed: int,
    custom_ops: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time model A, or A and B in turn, as onnxruntime deploys them.

    Two models take turns, so that a change of the machine's pace hits both alike. Load time and
    peak memory come from a process of its own for each, which does nothing else. The spread is what
    lies between the 10th and the 90th percentile.
    """
    from onnxopt.runtime import Settings

    paths = [a] if b is None else [a, b]
    settings = Settings(True, threads, custom_ops)
    with terminal.Bar() as bar:
        found = _facts(paths, (calib, preprocess, seed), settings, seconds, profile, bar)
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show(*_page(found), *kernels.show(found))


def _facts(
    paths: list[Path],
    source: tuple[str | None, str | None, int],
    settings: Settings,
    seconds: float,
    profile: bool,
    bar: terminal.Bar,
) -> Facts:
    from onnxopt import runtime, timing

    bar("reading")
    models = [options.load(path).export() for path in paths]
    samples = options.samples(models[0], *source)
    bar("loading")
    sessions = [_session(m, p, settings) for m, p in zip(models, paths, strict=True)]
    feed = _feed(samples, sessions[0], paths[0])
    try:
        sessions[-1].run(feed)
    except runtime.CannotRun as e:
        raise ModelError(f"{paths[-1]} does not take the inputs of {paths[0]}: {e}") from e
    bar(terminal.TIMING)
    times = timing.interleave(sessions, feed, seconds, ROUNDS)
    del sessions
    profiles = kernels.measure(models, feed, settings) if profile else None
    loads = [_load(path, feed, settings, bar) for path in paths]
    return {
        "schema_version": SCHEMA_VERSION,
        "models": [
            {
                "path": str(path),
                "bytes": model.nbytes,
                "min_ms": 1e3 * time.minimum,
                "median_ms": 1e3 * time.median,
                "spread_ms": 1e3 * time.spread,
                "runs": time.runs,
                **load,
            }
            for path, model, time, load in zip(paths, models, times, loads, strict=True)
        ],
        "profile": profiles,
        "ratio": times[1].median / times[0].median if len(times) > 1 else None,
        "threads": settings.threads,
        "input": {name: _shape(value) for name, value in feed.items()},
        "samples": samples.source,
        "synthetic": samples.synthetic,
        "cpu": cpu(),
        "versions": {"onnxruntime": runtime.version(), "python": platform.python_version()},
    }


def _session(model: Exported, path: Path, settings: Settings) -> Any:
    from onnxopt.runtime import CannotRun, Session

    try:
        return Session(model, settings)
    except CannotRun as e:
        raise ModelError(f"{path}: onnxruntime cannot load it: {e}") from e


def _feed(samples: Any, session: Any, path: Path) -> Facts:
    """Return the first sample that the model runs on; a real one has to run."""
    from onnxopt.runtime import CannotRun

    trouble = "there is none"
    for feed in samples.feeds():
        try:
            session.run(feed)
        except CannotRun as e:
            trouble = str(e)
            if not samples.synthetic:
                break
        else:
            found: Facts = feed
            return found
    if samples.synthetic:
        raise SamplesError(f"{path} runs on no input that could be drawn: give --calib: {trouble}")
    raise SamplesError(f"{samples.source}: {path} does not run on its first sample: {trouble}")


def _load(path: Path, feed: Facts, settings: Settings, bar: terminal.Bar) -> Facts:
    """Return load time and memory of a process of its own; None where it fails."""
    from onnxopt.cli import peak

    bar(f"loading {path.name}")
    try:
        load = peak.measure(path, feed, settings.threads, settings.custom_ops)
    except RuntimeError:
        return {"load_ms": None, "peak_bytes": None, "model_bytes": None}
    known = load.peak is not None and load.idle is not None
    return {
        "load_ms": 1e3 * load.seconds,
        "peak_bytes": load.peak,
        "model_bytes": (load.peak or 0) - (load.idle or 0) if known else None,
    }


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if hasattr(value, "shape") else None


def cpu() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _page(found: Facts) -> list[RenderableType | None]:
    models = found["models"]
    columns = ("", ">A", ">B", ">B / A")[: 4 if len(models) == 2 else 2]
    rows = []
    for label, key, form in (
        ("minimum", "min_ms", _ms),
        ("median", "median_ms", _ms),
        ("spread", "spread_ms", _ms),
        ("runs", "runs", tables.number),
        ("load", "load_ms", _ms),
        ("peak memory", "peak_bytes", _memory),
        ("of it the model's", "model_bytes", _memory),
        ("file", "bytes", tables.nbytes),
    ):
        values = [m[key] for m in models]
        ratio = "" if key == "runs" else _ratio(*values)
        rows.append([label, *map(form, values), ratio][: len(columns)])
    shapes = [f"{name} {tables.shape(s or ())}" for name, s in found["input"].items()]
    where = "drawn from the interface" if found["synthetic"] else f"of {found['samples']}"
    said: dict[str, str | list[str]] = {"AB"[i]: m["path"] for i, m in enumerate(models)}
    said["input"] = f"{', '.join(shapes)}, {where}"
    version = found["versions"]["onnxruntime"]
    threads = tables.plural(found["threads"], "thread")
    said["on"] = f"{threads}, {found['cpu']}, onnxruntime {version}"
    return [tables.facts(said), tables.table(*columns, rows=rows), _verdict(found)]


def _ms(value: float | None) -> str:
    return "n/a" if value is None else tables.seconds(value / 1e3)


def _memory(value: float | None) -> str:
    return "n/a" if value is None else tables.nbytes(value)


def _ratio(a: float | None, b: float | None = None) -> str:
    return "" if not a or b is None else f"{b / a:.2f}"


def _verdict(found: Facts) -> RenderableType | None:
    if found["ratio"] is None:
        return None
    return f"B is {1 / found['ratio']:.2f}x as fast as A"

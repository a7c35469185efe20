"""What the results are worth: valid, equal, proven; load time, latency, nodes, bytes.

Every tool writes its result of every model. Sessions of all results are then made in turn, as
onnxruntime loads them by default (ORT_ENABLE_ALL, one thread), and run in turn. `equal` is judged
by `onnxopt.parity` with the noise floor of the source, at both ends of onnxruntime's levels.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import real_models
import tools
from real_models import Entry
from tables import geometric_mean, number, progress, table
from worker import Worker

from onnxopt.model import Model
from onnxopt.parity import Tolerance

CALLS = {**tools.FILES, "onnxopt": tools.onnxopt_proven}
MADE = ("source", *CALLS)


@dataclass
class Result:
    """One file, and what was measured of it."""

    path: Path
    problem: str = ""
    nodes: int = 0
    size: int = 0
    load: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)


def session(path: Path, optimize: bool = True) -> onnxruntime.InferenceSession:
    """Load a model as a program that deploys it would."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs(path: Path, feed: dict[str, Any], optimize: bool) -> dict[str, Any]:
    """Run a model on inputs and return its outputs by name."""
    made = session(path, optimize)
    return dict(zip([o.name for o in made.get_outputs()], made.run(None, feed), strict=True))


def problem(path: Path, source: Path, feeds: list[dict[str, Any]]) -> str:
    """Return what is wrong with a result; empty if it is valid and equal to its source."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:  # noqa: BLE001  # whatever the checker raises says that it is not
        return f"not valid: {type(e).__name__}"
    if _interface(path) != _interface(source):
        return "interface changed"
    for feed in feeds:
        tolerance, want = Tolerance(), outputs(source, feed, False)
        tolerance.learn(want, outputs(source, feed, True))
        for optimize in (False, True):
            try:
                guilty = tolerance.breach(want, outputs(path, feed, optimize))[1]
            except Exception as e:  # noqa: BLE001  # onnxruntime's have no common base
                return f"does not run: {type(e).__name__}"
            if guilty is not None:
                return f"differs: {guilty.why}"
    return ""


def _interface(path: Path) -> list[object]:
    """Names and ranks of inputs and outputs; symbols may differ."""
    graph = onnx.load(path, load_external_data=False).graph
    held = {t.name for t in graph.initializer}
    values = [v for v in (*graph.input, *graph.output) if v.name not in held]
    return [(v.name, len(v.type.tensor_type.shape.dim)) for v in values]


def results(
    entry: Entry, folder: Path, workers: dict[str, Worker]
) -> tuple[dict[str, Result], str]:
    """Have every tool write its result; return them, and what onnxopt says of its proof."""
    feeds = [
        real_models.feed(entry.name, Model.load(entry.path).export().inputs, s) for s in (0, 1)
    ]
    found, proof = {"source": Result(entry.path)}, ""
    for name, call in CALLS.items():
        path = folder / f"{name}.onnx"
        answer = workers[name].ask(call, entry.path, path)
        if name == "onnxopt":
            proof = answer.error or _proof(answer.value)
        found[name] = Result(
            path, f"fails: {answer.error.partition(':')[0]}" if answer.error else ""
        )
        if not answer.error:
            found[name].problem = problem(path, entry.path, feeds)
    for result in found.values():
        if result.path.exists():
            result.nodes = tools.nodes(onnx.load(result.path))
            result.size = result.path.stat().st_size
    return found, proof


def _proof(report: dict[str, Any]) -> str:
    if not report["proven"]:
        return f"no: {report['reason']}"
    words = [f"{report['compared']} samples"]
    if report["unreached_branches"]:
        words.append(f"{len(report['unreached_branches'])} branches unreached")
    if report["undone"]:
        words.append(f"{len(report['undone'])} edits undone")
    return ", ".join(words)


def measure(found: dict[str, Result], feed: dict[str, Any], seconds: float, rounds: int) -> None:
    """Load and run all results that load, in turn."""
    usable = [r for r in found.values() if r.path.exists() and _loads(r.path)]
    end, done = time.perf_counter() + seconds, 0
    while done < 5 or (done < rounds and time.perf_counter() < end):
        for result in usable if done % 2 else reversed(usable):
            start = time.perf_counter()
            session(result.path)
            result.load.append(time.perf_counter() - start)
        done += 1
    sessions = [(r, session(r.path)) for r in usable]
    names = [{i.name for i in s.get_inputs()} for _, s in sessions]
    end, done = time.perf_counter() + seconds, 0
    while done < 5 or (done < 20 * rounds and time.perf_counter() < end):
        for (result, made), known in zip(sessions, names, strict=True):
            given = {k: v for k, v in feed.items() if k in known}
            start = time.perf_counter()
            made.run(None, given)
            result.run.append(time.perf_counter() - start)
        done += 1


def _loads(path: Path) -> bool:
    try:
        session(path)
    except Exception:  # noqa: BLE001  # onnxruntime's have no common base
        return False
    return True


def _pair(values: list[float]) -> str:
    if not values:
        return ""
    return f"{number(1e3 * min(values))} / {number(1e3 * sorted(values)[len(values) // 2])}"


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return min(mine) / min(theirs) if mine and theirs else float("nan")


def _judged(result: Result) -> str:
    return result.problem or "equal"


def _timings(found: dict[str, dict[str, Result]], what: str) -> str:
    """Return the table of load times or latencies."""
    others = [name for name in MADE if name != "onnxopt"]
    rows: list[list[str]] = []
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for model, made in found.items():
        lists = {name: getattr(result, what) for name, result in made.items()}
        against = {name: _ratio(lists["onnxopt"], lists[name]) for name in others}
        for name, ratio in against.items():
            ratios[name].append(ratio)
        cells = [_pair(lists[name]) for name in MADE]
        rows.append([model, *cells, *(number(r, 2) for r in against.values())])
    means = [number(geometric_mean(ratios[name]), 2) for name in others]
    rows.append(["geometric mean", *[""] * len(MADE), *means])
    return table(["model", *MADE, *(f"onnxopt / {n}" for n in others)], rows)


def main() -> None:
    """Measure and print three tables."""
    parser = real_models.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    workers = {name: Worker() for name in CALLS}
    facts: list[list[str]] = []
    measured: dict[str, dict[str, Result]] = {}
    for entry in real_models.chosen(options):
        if not _loads(entry.path):
            progress("loading", entry.name, "skipped: onnxruntime does not load it")
            continue
        progress("loading", entry.name)
        with tempfile.TemporaryDirectory() as folder:
            made, proof = results(entry, Path(folder), workers)
            measure(
                made,
                real_models.feed(entry.name, Model.load(entry.path).export().inputs),
                options.seconds,
                options.rounds,
            )
        measured[entry.name] = made
        sizes = [f"{made[n].nodes} ({made[n].size / 2**20:.2f})" for n in MADE]
        facts.append([entry.name, *sizes, proof, *(_judged(made[n]) for n in CALLS)])
    for worker in workers.values():
        worker.stop()
    head = ["model", *(f"{n}: nodes (MiB)" for n in MADE), "onnxopt's proof"]
    print(f"{__doc__}\n{table([*head, *CALLS], facts)}\n")
    print(f"Load time, ms, least / median; ratios of least.\n\n{_timings(measured, 'load')}\n")
    print(f"Latency, ms, least / median; ratios of least.\n\n{_timings(measured, 'run')}")


if __name__ == "__main__":
    main()

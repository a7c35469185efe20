"""Where the time of a model goes: onnxruntime's own profile, summed up by kernel.

The profile has an event for each kernel that ran, `{"name": "conv1_kernel_time", "dur":
microseconds, "args": {"op_name": ..}}`; names and ops are those of the graph after onnxruntime's
rewriting, with all optimizations on. Profiling costs time too, so only the shares are to be relied
on.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt.runtime import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxopt.model import Exported
    from onnxopt.runtime import Settings

SUFFIX = "_kernel_time"

WARM = 2
"""Runs before those that count."""

RUNS = 20


@dataclass(frozen=True)
class Kernel:
    """What one node of the deployed graph takes.

    Attributes:
        node: Its name there; onnxruntime makes names up for what it fused.
        op: Its operator, without its domain: the profile does not give one.
        seconds: Of one run, the fastest of several; of bodies, all iterations together.
        share: Of the time of all kernels.
    """

    node: str
    op: str
    seconds: float
    share: float


def measure(
    models: Sequence[Exported], feed: Mapping[str, Any], settings: Settings
) -> list[list[Kernel]]:
    """Profile models in turn on one input; return the kernels of each, the dearest first.

    Raises:
        CannotRun: onnxruntime cannot load or run one of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        traces = [str(Path(folder) / f"trace{i}") for i in range(len(models))]
        sessions = [
            Session(model, dataclasses.replace(settings, profile=trace))
            for model, trace in zip(models, traces, strict=True)
        ]
        for _ in range(WARM + RUNS):
            for session in sessions:
                session.run(feed)
        files = [Path(session.profiled()) for session in sessions]
        return [_kernels(json.loads(file.read_text("utf-8"))) for file in files]


def _kernels(events: list[dict[str, Any]]) -> list[Kernel]:
    """Sum events up; those of the first runs are left out."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            op = str(event.get("args", {}).get("op_name", ""))
            times[name.removesuffix(SUFFIX), op].append(1e-6 * float(event["dur"]))
    found = {key: _one_run(durations) for key, durations in times.items()}
    total = sum(found.values()) or 1.0
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Kernel(node, op, seconds, seconds / total) for (node, op), seconds in ranked]


def _one_run(durations: list[float]) -> float:
    """Return the time in one run of a kernel that ran in all of them alike."""
    each, rest = divmod(len(durations), WARM + RUNS)
    if not each or rest:
        return sum(durations) / (WARM + RUNS)
    runs = [sum(durations[i : i + each]) for i in range(0, len(durations), each)]
    return min(runs[WARM:])

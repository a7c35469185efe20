"""How long rewriting takes, from file to file, beside the peers.

Each tool has a process of its own that has imported everything and has done the model once. Then
they take turns. "rewriting" is onnxopt without its proof, which is what the peers do; "proven" is
`onnxopt.optimize` with it. A ratio is onnxopt's rewriting over the peer's, least over least.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import real_models
import tools
from tables import geometric_mean, number, progress, table
from worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS: dict[str, Callable[[Path, Path], object]] = {**tools.FILES, "proven": tools.onnxopt_proven}
PEERS = ("onnxslim", "onnxsim", "onnxscript")
PATIENCE = 120.0


def times(path: Path, workers: dict[str, Worker], rounds: int) -> dict[str, list[float] | str]:
    """Return the seconds of each call in turn, or why there are none."""
    found: dict[str, list[float] | str] = {name: [] for name in CALLS}
    with tempfile.TemporaryDirectory() as folder:
        for number_ in range(rounds + 1):
            order = list(CALLS) if number_ % 2 else list(reversed(CALLS))
            for name in order:
                seconds = found[name]
                if isinstance(seconds, str) or (name == "proven" and number_ > 2):
                    continue
                target = Path(folder) / f"{name}_{number_}.onnx"
                answer = workers[name].ask(CALLS[name], path, target, patience=PATIENCE)
                if answer.error:
                    found[name] = answer.error.partition(":")[0]
                    _warm(workers, name)
                elif number_ > 0:  # the first is to warm up
                    seconds.append(answer.seconds)
    return found


def _warm(workers: dict[str, Worker], name: str) -> None:
    workers[name].ask(tools.import_all, "onnxopt" if name == "proven" else name)


def _least(found: list[float] | str) -> float:
    return math.nan if isinstance(found, str) else min(found)


def _cell(found: list[float] | str) -> str:
    if isinstance(found, str):
        return found
    middle = sorted(found)[len(found) // 2]
    return f"{number(1e3 * min(found))} / {number(1e3 * middle)}"


def main() -> None:
    """Measure and print."""
    parser = real_models.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5, help="measured calls of each tool")
    options = parser.parse_args()
    workers = {name: Worker() for name in CALLS}
    for name in workers:
        _warm(workers, name)
    rows: list[list[str]] = []
    ratios: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for entry in real_models.chosen(options):
        progress("rewriting", entry.name)
        found = times(entry.path, workers, options.rounds)
        mine = _least(found["onnxopt"])
        against = {peer: mine / _least(found[peer]) for peer in PEERS}
        for peer, ratio in against.items():
            ratios[peer].append(ratio)
        size = tools.nodes(onnx.load(entry.path, load_external_data=False))
        cells = [_cell(found[name]) for name in ("onnxopt", *PEERS, "proven")]
        rows.append([entry.name, str(size), *cells, *(number(r, 2) for r in against.values())])
    for worker in workers.values():
        worker.stop()
    means = [number(geometric_mean(ratios[peer]), 2) for peer in PEERS]
    rows.append(["geometric mean", *[""] * 6, *means])
    head = ["model", "nodes", "onnxopt ms", *(f"{p} ms" for p in PEERS), "onnxopt proven ms"]
    print(f"{__doc__}\nMilliseconds, least / median.\n")
    print(table([*head, *(f"onnxopt / {p}" for p in PEERS)], rows))


if __name__ == "__main__":
    main()

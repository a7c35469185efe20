"""How rewriting grows with the number of nodes, beside onnxslim.

Where time is linear, milliseconds a node stay what they are; the exponent is the slope of log time
over log nodes between the smallest and the largest model, 1 for linear, 2 for quadratic. A tool
that needs longer than the limit is not asked for larger ones.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import onnx
import tools
from generated import FAMILIES
from tables import number, progress, table
from worker import Worker

TOOLS = ("onnxopt", "onnxslim")
SLOW = 10.0
"""Seconds; what takes longer is not repeated."""

SIZES = (1000, 2000, 5000, 10_000, 20_000, 50_000)


def measure(path: Path, worker: Worker, tool: str, rounds: int, limit: float) -> float:
    """Return the least seconds of the rounds; infinite above the limit, NaN where it fails."""
    least = math.inf
    for number_ in range(rounds):
        target = path.with_name(f"{tool}_{number_}.onnx")
        answer = worker.ask(tools.FILES[tool], path, target, patience=limit)
        if answer.error:
            worker.ask(tools.import_all, tool)
            return math.inf if answer.error == "too slow" else math.nan
        least = min(least, answer.seconds)
        if answer.seconds > SLOW:
            break
    return least


def _cell(seconds: float, limit: float) -> str:
    if math.isnan(seconds):
        return "fails"
    return f"> {limit:g}" if math.isinf(seconds) else number(seconds)


def _exponent(found: dict[int, float]) -> str:
    done = [(n, s) for n, s in found.items() if math.isfinite(s)]
    if len(done) < 2:
        return ""
    (n, a), (m, b) = done[0], done[-1]
    return f"{math.log(b / a) / math.log(m / n):.2f}"


def main() -> None:
    """Measure and print a table a family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    workers = {tool: Worker() for tool in TOOLS}
    for tool, worker in workers.items():
        worker.ask(tools.import_all, tool)
    rows = []
    for family, make in FAMILIES.items():
        found: dict[str, dict[int, float]] = {tool: {} for tool in TOOLS}
        for size in options.sizes:
            progress("scaling", family, size)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                model = make(size)
                onnx.save(model, path)
                del model
                for tool in TOOLS:
                    given_up = any(not math.isfinite(s) for s in found[tool].values())
                    found[tool][size] = (
                        math.inf
                        if given_up
                        else measure(path, workers[tool], tool, options.rounds, options.limit)
                    )
            mine, theirs = (found[tool][size] for tool in TOOLS)
            ratio = number(mine / theirs, 2) if math.isfinite(mine + theirs) else ""
            cells = [_cell(s, options.limit) for s in (mine, theirs)]
            rows.append([family, size, cells[0], number(1e3 * mine / size, 2), cells[1], ratio])
        rows.append([f"{family}: exponent", "", *(_exponent(found["onnxopt"]), "")])
        rows[-1] += [_exponent(found["onnxslim"]), ""]
    for worker in workers.values():
        worker.stop()
    print(__doc__)
    print(
        table(
            [
                "family",
                "nodes",
                "onnxopt s",
                "onnxopt ms a node",
                "onnxslim s",
                "onnxopt / onnxslim",
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()

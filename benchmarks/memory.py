"""Peak of memory on large models, beside the peers.

A stack of MatMuls with Identity nodes between them, random weights: as one file of 650 MB, and as
3 GB of external data. Each tool gets a new process; its peak is what the system says of that
process, mapped files included. onnxopt runs `clean` with its proof, the peers what they do.
Files are made in a temporary folder, one model at a time, and removed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import tools
from onnx import TensorProto, helper
from tables import number, progress, table
from worker import Worker

WIDTH = 2048
LAYER = 4 * WIDTH * WIDTH
CALLS = {**tools.FILES, "onnxopt": tools.onnxopt_clean}
SIZES = {"650 MB, one file": 650e6, "3 GB, external data": 3e9}
ROOM = 500e6
MOST = 8e9
GIB_2 = 2**31


def make(folder: Path, size: float) -> Path:
    """Write a model of so many bytes; return its path."""
    layers = math.ceil(size / LAYER)
    values = folder / "weights.bin"
    rng = np.random.default_rng(0)
    with values.open("wb") as file:
        for _ in range(layers):
            weights = rng.standard_normal((WIDTH, WIDTH), np.float32) / math.sqrt(WIDTH)
            weights.tofile(file)
    nodes, at = [], "x"
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [at, f"w{i}"], [f"m{i}"], name=f"matmul_{i}"))
        nodes.append(helper.make_node("Identity", [f"m{i}"], [f"i{i}"], name=f"identity_{i}"))
        nodes.append(helper.make_node("Tanh", [f"i{i}"], [f"t{i}"], name=f"tanh_{i}"))
        at = f"t{i}"
    nodes[-1].output[0] = "y"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", WIDTH]) for n in "xy")
    graph = helper.make_graph(nodes, "stack", [x], [y])
    for i in range(layers):
        tensor = graph.initializer.add(name=f"w{i}", dims=[WIDTH, WIDTH])
        tensor.data_type, tensor.data_location = TensorProto.FLOAT, TensorProto.EXTERNAL
        place = {"location": values.name, "offset": i * LAYER, "length": LAYER}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
    opset = helper.make_opsetid("", 17)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    if size < GIB_2:
        onnx.save(onnx.load(path), path)
        values.unlink()
    return path


def limit(size: float) -> tuple[float, str]:
    """Return what onnxopt promises for a model of so many bytes, and in words."""
    if size < GIB_2:
        return 3 * size + ROOM, "3 x file + 500 MB"
    return MOST, "8 GB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--patience", type=float, default=600.0, help="seconds a tool may take")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args()
    rows = []
    for title, size in SIZES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            with Worker() as worker:  # so that this process stays small
                path = worker.ask(make, folder, size).value
            file = float(sum(p.stat().st_size for p in folder.iterdir()))
            most, words = limit(file)
            for tool in options.tools:
                progress("memory", title, tool)
                with Worker() as worker:
                    worker.ask(tools.import_all, tool)
                    target = folder / "out" / "model.onnx"
                    target.parent.mkdir()
                    answer = worker.ask(CALLS[tool], path, target, patience=options.patience)
                written = sum(p.stat().st_size for p in target.parent.iterdir())
                for leftover in target.parent.iterdir():
                    leftover.unlink()
                target.parent.rmdir()
                fits = "yes" if answer.peak <= most else "no"
                rows.append(
                    [
                        f"{title}: {tool}",
                        answer.error or f"wrote {written / 1e6:.0f} MB",
                        number(answer.seconds),
                        f"{answer.peak / 1e6:.0f}" if answer.peak else "",
                        f"{answer.peak / file:.2f}" if answer.peak else "",
                        f"{words} = {most / 1e6:.0f} MB: {fits}" if tool == "onnxopt" else "",
                    ]
                )
    print(__doc__)
    print(table(["model: tool", "result", "seconds", "peak MB", "peak / file", "promised"], rows))


if __name__ == "__main__":
    main()

"""Peak of memory of calibration, whatever the number of samples, beside one inference.

Each line is a process of its own, on a convolutional net: one inference, as it is written; ranges
of all tensors; moments of what all layers read; biases and integers fitted to them; the whole of
`onnxopt run --passes quant`. The peak is what the system says of the process, less that of one that
imports the same and has onnxruntime loaded. `of one inference` has that base in both, as
a user sees it; `over the base` compares what is added to it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
from tables import progress, table
from worker import Worker

from onnxopt import api
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings, run_once
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import linear, ranges
from onnxopt.testing import fill
from onnxopt_passes.quant import coded, readings, refine, scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANNELS, SIZE, LAYERS = 32, 64, 8
SHAPE = (1, CHANNELS, SIZE, SIZE)
COUNTS = (10, 1000)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def net() -> onnx.ModelProto:
    """Return convolutions with Relu, of so many layers."""
    shape = f"float[{','.join(map(str, SHAPE))}]"
    weights = ", ".join(f"float[{CHANNELS},{CHANNELS},3,3] w{i}" for i in range(LAYERS))
    lines, at = [], "x"
    for i in range(LAYERS):
        lines += [f"c{i} = Conv<pads=[1,1,1,1]>({at}, w{i})", f"r{i} = Relu(c{i})"]
        at = f"r{i}"
    body = "\n".join([*lines, f"y = Identity({at})"])
    return fill(
        onnx.parser.parse_model(f"{HEAD}\ng ({shape} x) => ({shape} y) <{weights}> {{\n{body}\n}}")
    )


def drawn(count: int) -> Samples:
    """Return samples that are drawn when they are asked for."""

    def loaders() -> Iterator[Callable[[], Sample]]:
        for i in range(count):
            yield lambda i=i: Sample(
                {"x": np.random.default_rng(i).standard_normal(SHAPE, np.float32)}
            )

    return Samples(loaders, "drawn", length=count)


def base() -> None:
    """Load onnxruntime."""
    run_once(
        onnx.parser.parse_model(f"{HEAD} g (float[1] x) => (float[1] y) {{ y = Relu(x) }}"),
        {"x": np.ones(1, np.float32)},
    )


def inference(count: int) -> None:
    """Run samples through one session."""
    session = Session(Model.from_proto(net()).export(), Settings())
    for feed in drawn(count).feeds():
        session.run(feed)


def take_ranges(count: int) -> None:
    """Take the ranges of all tensors."""
    model = Model.from_proto(net())
    names = [t.name for n in model.graph.nodes for t in n.outputs]
    ranges.collect(model, names, drawn(count))


def take_moments(count: int) -> None:
    """Take the moments of what all layers read."""
    _read(count)


def fit(count: int) -> None:
    """Take them, and fit all weights in 8 and in 4 bits."""
    for layer, reading in _read(count):
        values = layer.weight.values
        view = coded.along(values.shape, 32)
        for plain in (
            coded.by_axis(values, scheme.GRIDS["int8"], True, 0),
            coded.in_blocks(values, scheme.GRIDS["int4"], True, view, 32),
        ):
            refine.refine(plain, reading, True)


def _read(count: int) -> list[tuple[linear.Linear, readings.Reading]]:
    model = Model.from_proto(net())
    layers = linear.find_all(model.graph)
    found = readings.read(model, layers, drawn(count), Settings(True))
    return [(layer, found[id(layer.weight)]) for layer in layers]


def whole(count: int) -> None:
    """Run the pass with its proof, from file to file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = name
        onnx.save(net(), folder / "net.onnx")
        with (folder / "x.npy").open("wb") as file:  # not mapped: that would count as memory
            shape = (count, *SHAPE[1:])
            head = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, head)
            for feed in drawn(count).feeds():
                file.write(feed["x"][0].tobytes())
        api.optimize(folder / "net.onnx", "quant", str(folder / "x.npy"), output=folder / "y.onnx")


JOBS: dict[str, Callable[[int], None]] = {
    "inference": inference,
    "ranges": take_ranges,
    "moments": take_moments,
    "moments and fits": fit,
    "the whole run": whole,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    options = parser.parse_args()
    with Worker() as worker:
        loaded = worker.ask(base).peak
    with Worker() as worker:
        worker.ask(base)
        one = worker.ask(inference, 1).peak
    rows = []
    for job in options.jobs:
        for count in options.counts:
            progress("calibration", job, count)
            with Worker() as worker:
                worker.ask(base)
                answer = worker.ask(JOBS[job], count, patience=1200)
            rows.append(
                [
                    f"{job}, {count} samples",
                    answer.error or f"{(answer.peak - loaded) / 1e6:.1f}",
                    f"{(answer.peak - loaded) / (one - loaded):.1f}",
                    f"{answer.peak / one:.2f}",
                    f"{answer.seconds:.1f}",
                ]
            )
    print(__doc__)
    print(table(["job", "MB", "over the base", "of one inference", "seconds"], rows))


if __name__ == "__main__":
    main()

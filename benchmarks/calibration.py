"""Peak of memory of calibration, whatever the number of samples, beside one inference.

    python benchmarks/calibration.py

Each line is a process of its own: one inference of a convolutional net in float as it is written;
ranges of all of its tensors over 10 and over 1,000 samples; moments of what its layers read.
The peak is what the system says of the process, less that of one that only imports.
"""

from __future__ import annotations

import multiprocessing
import resource
from typing import TYPE_CHECKING

import numpy as np
import onnx.parser

from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import linear, ranges
from onnxopt.testing import fill
from onnxopt_passes.quant import readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANNELS, SIZE, LAYERS = 32, 128, 8
JOBS = ("import", "inference", "ranges 10", "ranges 1000", "moments 10", "moments 1000")


def net() -> Model:
    """Return convolutions with Relu, of so many layers."""
    shape = f"float[1,{CHANNELS},{SIZE},{SIZE}]"
    weights = ", ".join(f"float[{CHANNELS},{CHANNELS},3,3] w{i}" for i in range(LAYERS))
    lines, at = [], "x"
    for i in range(LAYERS):
        lines += [f"c{i} = Conv<pads=[1,1,1,1]>({at}, w{i})", f"r{i} = Relu(c{i})"]
        at = f"r{i}"
    body = "\n".join([*lines, f"y = Identity({at})"])
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    text = f"{head}\ng ({shape} x) => ({shape} y) <{weights}> {{\n{body}\n}}"
    return Model.from_proto(fill(onnx.parser.parse_model(text)))


def drawn(count: int) -> Samples:
    """Return samples that are drawn when they are asked for."""

    def loaders() -> Iterator[Callable[[], Sample]]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            value = rng.standard_normal((1, CHANNELS, SIZE, SIZE), np.float32)
            yield lambda value=value: Sample({"x": value})

    return Samples(loaders, "drawn", length=count)


def peak(job: str) -> float:
    """Do one job; return the peak of this process in MB."""
    kind, _, count = job.partition(" ")
    if kind != "import":
        model = net()
        samples = drawn(int(count or 1))
        if kind == "inference":
            Session(model.export(), Settings()).run(next(iter(samples)).feed)
        elif kind == "ranges":
            names = [t.name for n in model.graph.nodes for t in n.outputs]
            ranges.collect(model, names, samples)
        else:
            readings.read(model, linear.find_all(model.graph), samples, Settings(True))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line for each job."""
    context = multiprocessing.get_context("spawn")
    base = one = 0.0
    for job in JOBS:
        with context.Pool(1) as pool:
            found = pool.apply(peak, (job,))
        base = base or found
        one = one or (found - base if job == "inference" else 0.0)
        share = f"{(found - base) / one:6.2f} of one inference" if one else ""
        print(f"{job:14}{found - base:8.1f} MB {share}", flush=True)


if __name__ == "__main__":
    main()

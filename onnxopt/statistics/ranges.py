"""Ranges of tensors inside a model over samples, in one pass and in the memory of one inference.

Each tensor is reduced inside the graph: its least and largest element and its sum leave
onnxruntime, with at most `PART` of its elements at equal distances, for the histogram. So no large
tensor outlives its readers, whatever the number of samples, and their shapes are free.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, runtime
from onnxopt.errors import SamplesError
from onnxopt.runtime import Settings
from onnxopt.statistics.histogram import BINS, Histogram
from onnxopt.statistics.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxopt.model import Exported, Model
    from onnxopt.samples import Samples

PART = 1 << 14
"""Elements of a tensor that its histogram counts, of each sample."""

LEAST_OPSET = 10
"""Slice with steps."""

WRITTEN = Settings()
"""ORT_DISABLE_ALL, so that tensors mean what is written."""


def collect(
    model: Model, names: Sequence[str], samples: Samples, settings: Settings = WRITTEN
) -> dict[str, Histogram]:
    """Run samples through a model; return a histogram for each tensor that is named.

    Args:
        model: Not changed; opset 10 or later.
        names: Float tensors of its main graph.
        samples: What to run, at least one.
        settings: How to load it.

    Raises:
        CannotRun: onnxruntime refuses the model, or cannot run it on a sample.
        SamplesError: There is no sample.
    """
    first = next(iter(samples), None)
    if first is None:
        raise SamplesError(f"{samples.source}: there is no sample to take ranges from")
    elements = sizes(model, names, first.feed, settings)
    clone = model.clone()
    tensors, first_added = named(clone), len(clone.graph.nodes)
    outputs = [t for n in names for t in _reduced(clone.graph, tensors[n], elements[n])]
    early(clone.graph, first_added)
    tap = Tap(clone, outputs, replace(settings, ordered=True))
    found = {name: Histogram() for name in names}
    for number, values in enumerate(tap.over(samples)):
        for i, name in enumerate(names):
            _count(found[name], values[4 * i : 4 * i + 4], number)
    return found


def early(graph: gs.Graph, first: int) -> None:
    """Move the nodes from an index on right behind what they read.

    A session that runs nodes in this order keeps no tensor longer than the model itself does.
    """
    nodes = graph.nodes
    place = {id(t): i for i, node in enumerate(nodes[:first]) for t in node.outputs}
    keys = [(i, 0) for i in range(first)]
    for node in nodes[first:]:
        behind = max((place.get(id(t), -1) for t in node.inputs), default=-1)
        place.update((id(t), behind) for t in node.outputs)
        keys.append((behind, 1))
    order = sorted(range(len(nodes)), key=lambda i: (*keys[i], i))
    nodes[:] = [nodes[i] for i in order]


def named(model: Model) -> dict[str, gs.Tensor]:
    """Return the tensors of the main graph that are fed or computed, by name."""
    made = (t for node in model.graph.nodes for t in node.outputs)
    return {t.name: t for t in (*model.graph.inputs, *made) if t.name}


def _count(histogram: Histogram, values: Sequence[np.ndarray], number: int) -> None:
    low, high, total, part = values
    if not part.size:
        return
    if not np.isfinite(low + high + total):
        histogram.trouble = histogram.trouble or f"{_kind(values)} on sample {number}"
        return
    histogram.add(part, float(low), float(high))


def _kind(values: Sequence[np.ndarray]) -> str:
    infinite = any(np.isinf(v).any() for v in values[:2]) and not np.isnan(values[2])
    return "Inf" if infinite else "NaN"


def sizes(
    model: Model, names: Sequence[str], feed: dict[str, np.ndarray], settings: Settings = WRITTEN
) -> dict[str, int]:
    """Return how many elements the tensors have on one sample."""
    clone = model.clone()
    tensors, first = named(clone), len(clone.graph.nodes)
    outputs = []
    for i, name in enumerate(names):
        size = gs.Variable(f"onnxopt.size.{i}", np.int64, ())
        match.insert(clone.graph, gs.Node("Size", "", {}, [tensors[name]], [size]))
        outputs.append(size)
    early(clone.graph, first)
    tap = Tap(clone, outputs, replace(settings, ordered=True))
    return dict(zip(names, map(int, tap(feed)), strict=True))


def _reduced(graph: gs.Graph, tensor: gs.Tensor, size: int) -> list[gs.Variable]:
    """Put nodes behind a tensor that give its least, largest, sum, and a part of its elements."""
    prefix = f"onnxopt.range.{tensor.name}"
    outputs = [gs.Variable(f"{prefix}.{what}", np.float32) for what in ("low", "high", "sum")]
    for op, out in zip(("ReduceMin", "ReduceMax", "ReduceSum"), outputs, strict=True):
        match.insert(graph, gs.Node(op, f"{out.name}.node", {"keepdims": 0}, [tensor], [out]))
    flat, part = (gs.Variable(f"{prefix}.{what}", np.float32) for what in ("flat", "part"))
    step = -(-size // PART) | 1  # odd, so that it does not walk along one channel
    bounds = [np.asarray([v], np.int64) for v in (0, np.iinfo(np.int64).max, 0, step)]
    slicing = [gs.Constant(f"{prefix}.{i}", b) for i, b in enumerate(bounds)]
    shape = gs.Constant(f"{prefix}.shape", np.asarray([-1], np.int64))
    match.insert(graph, gs.Node("Reshape", f"{flat.name}.node", {}, [tensor, shape], [flat]))
    match.insert(graph, gs.Node("Slice", f"{part.name}.node", {}, [flat, *slicing], [part]))
    return [*outputs, part]


def fingerprint(exported: Exported, samples: Samples, names: Iterable[str]) -> str:
    """Return what statistics depend on: graph, weights, data with labels, and both versions."""
    digest = hashlib.sha256(exported.proto.SerializeToString(deterministic=True))
    for name, weight in sorted(exported.weights.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weight.raw).data)
    for sample in samples:
        labels = {} if sample.label is None else {"": sample.label}
        for name, value in sorted((sample.feed | labels).items()):
            digest.update(f"{name} {getattr(value, 'dtype', '')} {np.shape(value)}".encode())
            digest.update(np.ascontiguousarray(np.asarray(value)).data)
    versions = [version("onnxopt"), runtime.version()]
    digest.update(json.dumps([versions, BINS, PART, sorted(names)]).encode())
    return digest.hexdigest()


def cached(
    model: Model, names: Sequence[str], samples: Samples, settings: Settings = WRITTEN
) -> dict[str, Histogram]:
    """Return what `collect` does, from a file if the very same was asked before.

    The file's name is the fingerprint: another graph, weight, sample or version is another file.

    Raises:
        CannotRun: See `collect`.
        SamplesError: See `collect`.
    """
    path = _file(fingerprint(model.export(), samples, names))
    with (
        contextlib.suppress(OSError, ValueError, KeyError),
        np.load(path, allow_pickle=False) as held,
    ):
        return _read(json.loads(str(held["names"])), held)
    found = collect(model, names, samples, settings)
    with contextlib.suppress(OSError):
        _write(path, found)
    return found


def _file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxopt" / "ranges" / f"{key[:32]}.npz"


def _read(names: Sequence[str], held: np.lib.npyio.NpzFile) -> dict[str, Histogram]:
    counts, numbers, troubles = held["counts"], held["numbers"], json.loads(str(held["troubles"]))
    found = {}
    for i, name in enumerate(names):
        low, high, start, width, zeros, lows, highs, n = (float(v) for v in numbers[i])
        averages = (lows, highs, int(n))
        found[name] = Histogram(low, high, start, width, counts[i], zeros, averages, troubles[i])
    return found


def _write(path: Path, found: dict[str, Histogram]) -> None:
    numbers = [[h.low, h.high, h.start, h.width, h.zeros, *h.averages] for h in found.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        np.savez_compressed(
            file,
            counts=np.asarray([h.counts for h in found.values()]),
            numbers=np.asarray(numbers, np.float64),
            names=np.asarray(json.dumps(list(found))),
            troubles=np.asarray(json.dumps([h.trouble for h in found.values()])),
        )
    os.replace(name, path)

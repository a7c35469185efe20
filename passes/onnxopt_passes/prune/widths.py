"""Widths that pay: on which multiples of channels the kernels of this machine stand.

Kernels of onnxruntime work on blocks of channels: a layer takes as long as the next whole number of
blocks, and a width that falls off them loses the blocked layout altogether. For each family of
operators a small model is timed at a full width and at widths a little below it. The step is the
smallest number of channels that, taken away, saves a fair part of the arithmetic that it saves.
Measured once for a CPU and a version of onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxopt import verdicts
from onnxopt.model import Exported
from onnxopt.runtime import Session, Settings
from onnxopt.timing import interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STEPS = (2, 4, 8, 16)
"""Steps that are tried, the smallest first."""

COARSEST = 32
"""The step where none of them pays."""

BLOCKED = 4
"""Multiple of channels that the blocked layout of onnxruntime's convolutions takes."""

LEAST_WIDTHS = 4
"""Widths to choose from that every group has where time is not what counts."""

FAIR = 1 / 3
"""Share of the arithmetic saved that must be saved in time."""

SECONDS = 0.6
"""Time spent on one family."""

LAYERS = 4
"""Layers in a row of one model that is timed."""


def step(family: str, threads: int = 1) -> int:
    """Return the multiple of channels on which widths of a family pay; 1 where all do.

    Args:
        family: `conv`, `depthwise` or `matmul`.
        threads: Threads of onnxruntime.
    """
    key = verdicts.key("width step", family, threads, LAYERS, STEPS)
    known = verdicts.recall(key)
    if known is None:
        build, full = FAMILIES[family]
        known = smallest_paying(_times(build, full, threads), full)
        verdicts.remember(key, known)
    return int(known)


def fine(size: int, multiple: int) -> int:
    """Return a step for budgets of MACs or parameters: no group has fewer than four widths.

    Never below what keeps the blocked layout, which costs no time; but widths between two plateaus
    save none. For budgets of latency the step itself is right.

    Args:
        size: Full width of a group.
        multiple: The step of its family.
    """
    return min(multiple, max(size // LEAST_WIDTHS, BLOCKED))


def smallest_paying(times: Mapping[int, float], full: int) -> int:
    """Return the smallest step that pays.

    Args:
        times: Seconds at the full width and at each step below it.
        full: The full width.
    """
    for size in STEPS:
        arithmetic = 1 - ((full - size) / full) ** 2
        if 1 - times[full - size] / times[full] >= FAIR * arithmetic:
            return 1 if size == STEPS[0] else size
    return COARSEST


def allowed(size: int, multiple: int, least: int, droppable: bool = False) -> tuple[int, ...]:
    """Return the widths that a group may take, ascending.

    Args:
        size: Its full width, always among them.
        multiple: The step; 1 for every width.
        least: The smallest width.
        droppable: Whether width 0 removes a whole branch.
    """
    found = {w for w in range(multiple, size, multiple) if w >= least} | {size}
    return tuple(sorted(found | {0} if droppable else found))


def _times(build: Callable[[int], onnx.ModelProto], full: int, threads: int) -> dict[int, float]:
    """Return the seconds of the models at the widths that matter, timed in turn."""
    widths = [full, *(full - size for size in STEPS)]
    settings = Settings(optimize=True, threads=threads)
    models = [build(width) for width in widths]
    sessions = [Session(Exported(m, {}), settings) for m in models]
    shape = [d.dim_value for d in models[0].graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.ones(shape, np.float32)}
    timings = interleave(sessions, feed, SECONDS)
    return {width: t.minimum for width, t in zip(widths, timings, strict=True)}


def _model(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], shape: Sequence[int], rank: int
) -> onnx.ModelProto:
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "widths",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [None] * rank)],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CHANNELS = 16
"""Channels that the timed models begin with, whatever their width: they all take one input."""


def _conv(width: int) -> onnx.ModelProto:
    """Return a row of 3x3 convolutions of that width."""
    weights: dict[str, np.ndarray] = {}
    nodes, last, channels = [], "x", CHANNELS
    for i in range(LAYERS):
        weights[f"w{i}"] = np.full((width, channels, 3, 3), 1e-3, np.float32)
        weights[f"b{i}"] = np.zeros(width, np.float32)
        out = "y" if i == LAYERS - 1 else f"c{i}"
        ends = [last, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", ends, [out], pads=[1, 1, 1, 1]))
        last, channels = out, width
    return _model(nodes, weights, [1, CHANNELS, 28, 28], 4)


def _depthwise(width: int) -> onnx.ModelProto:
    """Return a row of depthwise 3x3 and pointwise convolutions of that width."""
    weights: dict[str, np.ndarray] = {"w": np.full((width, CHANNELS, 1, 1), 1e-3, np.float32)}
    nodes, last = [helper.make_node("Conv", ["x", "w"], ["c"])], "c"
    for i in range(LAYERS):
        weights[f"d{i}"] = np.full((width, 1, 3, 3), 1e-1, np.float32)
        weights[f"p{i}"] = np.full((width, width, 1, 1), 1e-3, np.float32)
        middle, out = f"m{i}", "y" if i == LAYERS - 1 else f"c{i}"
        nodes.append(
            helper.make_node("Conv", [last, f"d{i}"], [middle], pads=[1, 1, 1, 1], group=width)
        )
        nodes.append(helper.make_node("Conv", [middle, f"p{i}"], [out]))
        last = out
    return _model(nodes, weights, [1, CHANNELS, 28, 28], 4)


def _matmul(width: int) -> onnx.ModelProto:
    """Return a row of products with matrices of that width, as in a transformer."""
    weights: dict[str, np.ndarray] = {"w": np.full((CHANNELS, width), 1e-3, np.float32)}
    nodes, last = [helper.make_node("MatMul", ["x", "w"], ["c"])], "c"
    for i in range(LAYERS):
        weights[f"w{i}"] = np.full((width, width), 1e-3, np.float32)
        out = "y" if i == LAYERS - 1 else f"c{i}"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [out]))
        last = out
    return _model(nodes, weights, [256, CHANNELS], 2)


FAMILIES: dict[str, tuple[Callable[[int], onnx.ModelProto], int]] = {
    "conv": (_conv, 64),
    "depthwise": (_depthwise, 64),
    "matmul": (_matmul, 128),
}
"""What is timed for each family, and its full width."""

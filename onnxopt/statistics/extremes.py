"""The largest value of each channel of tensors inside a model, over samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.statistics.ranges import WRITTEN, early, named
from onnxopt.statistics.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples


def largest(
    model: Model,
    axes: Mapping[str, int],
    samples: Samples,
    settings: Settings = WRITTEN,
    *,
    magnitude: bool = False,
) -> dict[str, np.ndarray]:
    """Return the largest value at each index of one axis; onnxruntime reduces the others.

    Args:
        model: Not changed.
        axes: Float tensors of its main graph, by name, and the axis of each; the last one is -1,
            and needs opset 11.
        samples: What to run; at least one.
        settings: How to load it.
        magnitude: Look at magnitudes rather than at values.

    Raises:
        CannotRun: onnxruntime refuses the model, or cannot run it on a sample.
    """
    clone = model.clone()
    tensors, first = named(clone), len(clone.graph.nodes)
    outputs = []
    for name, axis in axes.items():
        tensor = _magnitudes(clone.graph, tensors[name]) if magnitude else tensors[name]
        outputs.append(_columns(clone.graph, tensor, axis))
    early(clone.graph, first)
    tap = Tap(clone, outputs, replace(settings, ordered=True))
    found: dict[str, np.ndarray] = {}
    for values in tap.over(samples):
        for name, value in zip(axes, values, strict=True):
            best = value.reshape(-1, value.shape[-1]).max(0)
            found[name] = np.maximum(found[name], best) if name in found else best
    return found


def _magnitudes(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    out = gs.Variable(f"onnxopt.magnitude.{tensor.name}", np.float32)
    match.insert(graph, gs.Node("Abs", f"{out.name}.node", {}, [tensor], [out]))
    return out


def _columns(graph: gs.Graph, tensor: gs.Tensor, axis: int) -> gs.Tensor:
    """Put nodes behind a tensor that reduce it to (rows, channels), channels being axis 1.

    Of the last axis, by ops that are the same in all opsets from 11 on: (rows, channels), turned,
    (channels, 1, rows), and its pool.
    """
    name = f"onnxopt.largest.{tensor.name}"
    last = axis == -1
    shape = gs.Constant(f"{name}.shape", np.asarray([0, 1, -1] if last else [0, 0, -1], np.int64))
    steps: list[tuple[str, dict[str, object], list[gs.Tensor]]] = [
        ("Flatten", {"axis": -1}, []),
        ("Transpose", {"perm": [1, 0]}, []),
    ]
    steps = steps if last else []
    steps += [("Reshape", {}, [shape]), ("GlobalMaxPool", {}, [])]
    steps += [("Flatten", {"axis": 0 if last else 1}, [])]
    for i, (op, attributes, more) in enumerate(steps):
        out = gs.Variable(f"{name}.{i}", np.float32)
        match.insert(graph, gs.Node(op, f"{out.name}.node", attributes, [tensor, *more], [out]))
        tensor = out
    return tensor

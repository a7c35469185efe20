"""The largest value of each channel of tensors inside a model, over samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.statistics.ranges import WRITTEN, named
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
        axes: Float tensors of its main graph, by name, and the axis of each.
        samples: What to run; at least one.
        settings: How to load it.
        magnitude: Look at magnitudes rather than at values.

    Raises:
        CannotRun: onnxruntime refuses the model, or cannot run it on a sample.
    """
    clone = model.clone()
    tensors = named(clone)
    outputs = []
    for name, axis in axes.items():
        tensor = _magnitudes(clone.graph, tensors[name]) if magnitude else tensors[name]
        outputs.append(_columns(clone.graph, tensor, axis))
    tap = Tap(clone, outputs, settings)
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
    """Put nodes behind a tensor that reduce it to (rows, channels), channels being axis 1."""
    if axis == -1:
        return tensor
    name = f"onnxopt.largest.{tensor.name}"
    shape = gs.Constant(f"{name}.shape", np.asarray([0, 0, -1], np.int64))
    rows, best, flat = (gs.Variable(f"{name}.{w}", np.float32) for w in ("rows", "best", "flat"))
    for op, inputs, out in (
        ("Reshape", [tensor, shape], rows),
        ("GlobalMaxPool", [rows], best),
        ("Flatten", [best], flat),
    ):
        match.insert(graph, gs.Node(op, f"{out.name}.node", {}, inputs, [out]))
    return flat

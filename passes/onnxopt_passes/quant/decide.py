"""Which mode fits a model, by where its multiply-accumulates are.

convolutions                                 static, given samples
products by constant weights                 dynamic
both                                         hybrid: static around the convolutions
neither, recurrent nets, or no samples       weights

For the target `ort-cpu` LSTMs are among the products: see `dynamic_lstm`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.runtime import Settings
from onnxopt.statistics import ranges

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

MOST = 0.8
"""Share of all work from which the rest does not matter."""

LEAST = 0.3
"""Share of all work from which integers are worth the trouble."""


def mode(model: Model, ctx: Context) -> tuple[str, str]:
    """Return the mode for a model, and the reason.

    Raises:
        CannotRun: onnxruntime cannot run it on the first sample.
    """
    if ctx.calibration is None or ctx.calibration.synthetic:
        return "weights", "there are no real samples to choose ranges from and to try on"
    work = macs(model, ctx)
    total = sum(work.values())
    if not total:
        return "weights", "it has no convolution and no product by constant weights"
    share = {kind: n / total for kind, n in work.items()}
    words = ", ".join(f"{s:.0%} {kind}" for kind, s in share.items() if s >= 0.005)
    if ctx.target == "ort-cpu":
        share["product"] += share["LSTM"]
    if share["convolution"] >= MOST:
        return "static", f"work is {words}"
    if share["product"] >= MOST and share["convolution"] < LEAST / 3:
        return "dynamic", f"work is {words}"
    if share["convolution"] + share["product"] >= LEAST and share["convolution"] > 0:
        return "hybrid", f"work is {words}"
    if share["product"] >= LEAST:
        return "dynamic", f"work is {words}"
    return "weights", f"work is {words}"


def macs(model: Model, ctx: Context) -> dict[str, int]:
    """Return multiply-accumulates by kind on the first sample.

    Kinds are convolution, product, LSTM, and recurrent for GRU and RNN.

    Raises:
        CannotRun: onnxruntime cannot run it on the sample.
    """
    shapes.infer(model)
    counted = [
        n for n in model.graph.nodes if match.is_op(n, "Conv", "MatMul", "Gemm", *match.RECURRENT)
    ]
    names = [_counted(node).name for node in counted]
    found = {"convolution": 0, "product": 0, "LSTM": 0, "recurrent": 0}
    if not names or ctx.calibration is None:
        return found
    feed = next(iter(ctx.calibration)).feed
    settings = Settings(False, ctx.threads, ctx.custom_ops)
    sizes = ranges.sizes(model, [n for n in dict.fromkeys(names) if n], feed, settings)
    for node, name in zip(counted, names, strict=True):
        weight = match.constant(node.inputs[1])
        if weight is None or name not in sizes or weight.ndim < 2:
            continue
        if node.op in match.RECURRENT:
            state = match.constant(node.inputs[2])
            steps = sizes[name] // weight.shape[-1]
            kind = "LSTM" if node.op == "LSTM" else "recurrent"
            found[kind] += steps * (weight.size + (0 if state is None else state.size))
        elif node.op == "Conv":
            found["convolution"] += sizes[name] * math.prod(weight.shape[1:])
        else:
            columns = weight.shape[0 if match.attribute(node, "transB", 0) else -1]
            found["product"] += sizes[name] * (weight.size // columns)
    return found


def _counted(node: gs.Node) -> gs.Tensor:
    """Return the tensor whose size tells the work: the output, of recurrent nodes the input."""
    return node.inputs[0] if node.op in match.RECURRENT else node.outputs[0]

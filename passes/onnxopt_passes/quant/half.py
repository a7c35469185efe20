"""Floats of 16 bits (mode=fp16, mode=bf16).

Two ways. *Computed*: nodes read and write float16, and Casts stand where they meet nodes that
stay in float32: those whose numbers, on calibration samples, come near the end of float16's range,
those with constants that float16 has no number for, and those that ONNX does not define for
float16. *Stored*: weights are float16 or bfloat16 in the file, behind a Cast that onnxruntime folds
at load.

A CPU has hardly any kernels for 16 bits: onnxruntime casts to float32 and back around nodes, and
has nothing at all for bfloat16. So bfloat16 is stored only, and float16 is computed only where that
is not slower, or if the option `timed` is off, as for a file that is meant for other hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from onnxopt import match, rewrite, timing
from onnxopt.errors import SamplesError
from onnxopt.model import Model, ir
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.quant import half_nodes, large, opset
from onnxopt_passes.quant.decode import Chain
from onnxopt_passes.quant.half_nodes import LARGEST

if TYPE_CHECKING:
    from typing import Any

    from onnxopt.base import Context
    from onnxopt_passes.quant import Quant

BFLOAT_OPSET = 13
"""Opset since which Cast knows bfloat16."""

SLOWER = 1.03
"""Time over that in float32 from which on a model counts as slower."""

SECONDS = 0.5
"""Time that the comparison takes."""

TYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def convert(model: Model, options: Quant, ctx: Context) -> int:
    """Compute and store in 16 bits; what would overflow, on calibration samples, stays in 32.

    Args:
        model: Edited in place; inputs and outputs keep their types.
        options: mode, timed.
        ctx: Asked with `half@path/of/graph/node` before each node is converted, and with
            `half@path/of/graph/initializer` before each weight is.

    Returns:
        How many nodes were converted, and how many weights beyond those of these nodes.
    """
    edits = 0
    if options.mode == "fp16":
        edits += _compute(model, options, ctx)
    else:
        reason = opset.raise_to(model, BFLOAT_OPSET, ctx)
        if reason:
            ctx.notes.append(f"not bf16: {reason}")
            return 0
        ctx.notes.append("bf16: onnxruntime has no such kernels on a CPU; weights are stored only")
    return edits + _store(model, TYPES[options.mode], ctx)


def _compute(model: Model, options: Quant, ctx: Context) -> int:
    """Let nodes compute in float16, if the model stays right, and as fast where that is asked."""
    try:
        islands, feed = half_nodes.islands(model, ctx)
        reason = _against(model, islands, feed, options, ctx)
    except (CannotRun, SamplesError) as e:
        reason = str(e)
    if reason:
        ctx.notes.append(f"float16 is stored, not computed: {reason}")
        return 0
    ctx.untouched.update({f"node {name}": why for name, why in islands.items()})
    ctx.notes.append(f"float16: {len(islands)} nodes stay in float32")
    return half_nodes.convert(model, islands, ctx.allow)


def _against(
    model: Model, islands: dict[str, str], feed: dict[str, Any], options: Quant, ctx: Context
) -> str:
    """Return what speaks against computing in float16, empty if nothing does.

    Raises:
        CannotRun: onnxruntime refuses one of the models.
    """
    trial = model.clone()
    if not half_nodes.convert(trial, islands, lambda _: True):
        return "no node can compute in it"
    before, after = model.export(), trial.export()
    settings = Settings(True, ctx.threads, ctx.custom_ops)
    sessions = [Session(m, settings) for m in (before, after)]
    want, got = (s.run(feed) for s in sessions)
    if any(_finite(want[name]) and not _finite(got[name]) for name in want):
        return "outputs would hold numbers that are not finite"
    return _slower(sessions, feed) if options.timed else ""


def _slower(sessions: list[Session], feed: dict[str, Any]) -> str:
    old, new = timing.interleave(sessions, feed, SECONDS)
    ratio = new.minimum / old.minimum
    if ratio <= SLOWER:
        return ""
    return f"on this CPU it takes {ratio:.2f} times as long (timed=false writes it all the same)"


def _finite(value: Any) -> bool:
    array = np.asarray(value) if isinstance(value, np.ndarray) else np.zeros(0)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _store(model: Model, dtype: np.dtype, ctx: Context) -> int:
    """Store the float32 weights of all graphs in 16 bits; return how many."""
    for root in (model.graph, *model.graph.functions):
        match.stamp(root)
    weights, reasons = large.find(model, large.WORTHWHILE)
    ctx.untouched.update(reasons)
    edits = 0
    with rewrite.editing(model):
        for weight in weights:
            if weight.values.dtype != np.float32:
                continue
            if dtype == np.float16 and np.abs(weight.values).max() > LARGEST:
                ctx.untouched[weight.name] = f"it holds more than {LARGEST:.0f}"
            elif ctx.allow(f"half@{weight.name}"):
                edits += _store_one(weight, dtype)
    return edits


def _store_one(weight: large.Weight, dtype: np.dtype) -> int:
    chain = Chain(weight.home, weight.tensor.name)
    stored = ir.Constant(f"{weight.tensor.name}_half", weight.values.astype(dtype))
    whole = chain.add("Cast", stored, to=1)
    for node, _ in weight.uses:
        node.inputs = [whole if t is weight.tensor else t for t in node.inputs]
    maker = match.producer(weight.tensor)
    if maker is not None:
        rewrite.sweep(weight.home, [maker])
    return 1

"""Weights stored in integers and computed in float (mode=weights).

Which form is fastest was measured with onnxruntime 1.32 (x64, one thread), as time over that of
float weights:

    form                          Conv   Gemm        MatMul, 1 row   128 rows   Gather
    Cast, Mul: folded at load     1.00   1.00        1.00            1.01       1.00
    DequantizeLinear, 8 bits      1.40   0.9 to 12   0.75            1.6        1200
    DequantizeLinear, 4 bits      1.53   0.8 to 12   0.6             1.3        1200
    rows of integers, then Mul                                                  1.5

Hence: Cast and Mul, but DequantizeLinear for MatMul of few rows, or of unknown many where blocks
were asked for (it keeps them small in memory too), and rows of integers for embeddings, which take
a few microseconds and are not to be unpacked as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, rewrite, shapes
from onnxopt.model import ir
from onnxopt_passes.quant import coded, large, opset, rows
from onnxopt_passes.quant.decode import Stored
from onnxopt_passes.quant.scheme import GRIDS, Grid

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.coded import Coded, View
    from onnxopt_passes.quant.large import Weight

LEAST_OPSET = 7
"""Opset since which Mul broadcasts as numpy does."""

AXIS_OPSET = 13
"""Opset since which DequantizeLinear has an axis."""

BLOCK_OPSET = 21
"""Opset since which DequantizeLinear has blocks, and 4 bits."""

LEAST_ROW = 16
"""Elements that a row of an embedding has at least."""


@dataclass(frozen=True)
class Form:
    """How a weight is stored.

    Attributes:
        weight: The weight.
        grid: Its integers.
        balanced: Whether its zero points are 0.
        view: How blocks run through it; None for a scale a channel.
        block: Elements of a block.
        axis: The axis of the channels; None is the one that loses least, -1 one scale for all.
        kernel: Whether MatMul reads it behind a DequantizeLinear.
    """

    weight: Weight
    grid: Grid
    balanced: bool
    view: View | None = None
    block: int = 0
    axis: int | None = None
    kernel: bool = False

    def code(self) -> Coded:
        """Return the weight's integers."""
        values = self.weight.values.astype(np.float32, copy=False)
        if self.view is not None:
            return coded.in_blocks(values, self.grid, self.balanced, self.view, self.block)
        if self.axis is None:
            return coded.by_channel(values, self.grid, self.balanced)
        axis = None if self.axis < 0 else self.axis
        return coded.by_axis(values, self.grid, self.balanced, axis)


def quantize_weights(model: Model, options: Quant, ctx: Context) -> int:
    """Store each float weight over 1,024 elements in integers, in the form that stays fast.

    Smaller ones too, from 256 elements on, where `mode=weights` is asked for. Also runs after
    static and dynamic quantization, on what they left in float: weights that are integers already,
    or behind a DequantizeLinear, are not looked at. What stays in float is listed in
    `ctx.untouched` by the initializer's name, with the reason.

    Args:
        model: Edited in place; its opset is raised only where the form asked for needs it.
        options: weights, granularity, block, symmetric.
        ctx: Asked with `weights@path/of/graph/initializer` before each edit.

    Returns:
        How many weights were changed.
    """
    forms, reasons = _plan(model, options, ctx)
    if any(f.kernel and f.view is not None for f in forms) and model.opset < BLOCK_OPSET:
        reason = opset.raise_to(model, BLOCK_OPSET, ctx)
        if reason:
            ctx.notes.append(f"blocks are unpacked without DequantizeLinear: {reason}")
        forms, reasons = _plan(model, options, ctx)
    ctx.untouched.update(reasons)
    edits = 0
    with rewrite.editing(model):
        for form in forms:
            if form.kernel and form.weight.uses[0][0].owner.opset < _needed(form):  # type: ignore[attr-defined]
                form = replace(form, kernel=False)
            if ctx.allow(f"weights@{form.weight.name}"):
                _write(form)
                edits += 1
    return edits


def _plan(model: Model, options: Quant, ctx: Context) -> tuple[list[Form], dict[str, str]]:
    """Return how each weight is to be stored, and why others stay."""
    for root in (model.graph, *model.graph.functions):
        match.stamp(root)
    least = large.WORTHWHILE if options.mode == "weights" else large.LARGE
    weights, reasons = large.find(model, least)
    if not weights:
        return [], reasons
    if model.opset < LEAST_OPSET:
        word = f"opset {model.opset}: Mul does not broadcast before opset {LEAST_OPSET}"
        return [], reasons | {w.name: word for w in weights}
    shapes.infer(model)
    products = [n for w in weights if w.read_by("MatMul", 1) for n, _ in w.uses]
    counts = rows.count(model, products, ctx)
    return [_form(w, options, counts) for w in weights], reasons


def _form(weight: Weight, options: Quant, counts: dict[int, int]) -> Form:
    """Choose the form of a weight."""
    grid = GRIDS[options.weights]
    matrix = weight.read_by("MatMul", 1) and weight.values.ndim == 2
    matrix = matrix and weight.values.dtype == np.float32
    known = [counts.get(id(n)) for n, _ in weight.uses]
    few = matrix and all(k is not None and k <= rows.FEW.get(grid.bits, 0) for k in known)
    blocks = options.granularity == "block" or grid.bits < 8
    form = Form(weight, grid, options.symmetric)
    if blocks:
        wanted = matrix and grid.bits in (4, 8) and (None in known or not options.timed)
        return _blocks(form, options.block, few or wanted)
    if options.granularity == "tensor":
        return replace(form, axis=-1)
    if few and grid.bits == 8:
        return replace(form, axis=1, kernel=True)
    if weight.values.ndim == 2 and any(match.is_op(n, "Gather") for n, _ in weight.uses):
        return replace(form, axis=0)
    return form


def _blocks(form: Form, block: int, kernel: bool) -> Form:
    shape = form.weight.values.shape
    if form.weight.read_by("MatMul", 1) and len(shape) == 2:
        return replace(form, view=(1, *shape), block=block, kernel=kernel and shape[0] >= block)
    return replace(form, view=coded.along(shape, block), block=block)


def _needed(form: Form) -> int:
    return AXIS_OPSET if form.view is None else BLOCK_OPSET


def _write(form: Form) -> None:
    """Put the integers into the graph, and let all readers of the weight read those."""
    weight = form.weight
    values = form.code()
    stored = Stored(weight.tensor.name, values, weight.values.dtype)
    home = weight.home
    whole: gs.Tensor | None = None
    for node, index in weight.uses:
        if _looks_up(node, index, weight) and values.by_row and _rank(node) is not None:
            _look_up(node, stored)
            continue
        if whole is None:
            whole = stored.dequantized(home) if form.kernel else stored.whole(home)
        node.inputs = [whole if t is weight.tensor else t for t in node.inputs]
    maker = match.producer(weight.tensor)
    if maker is not None:
        rewrite.sweep(home, [maker])


def _rank(node: gs.Node) -> int | None:
    dims = shapes.dims(node.inputs[1])
    return None if dims is None else len(dims)


def _looks_up(node: gs.Node, index: int, weight: Weight) -> bool:
    wide = weight.values.ndim == 2 and weight.values.shape[1] >= LEAST_ROW
    return match.is_op(node, "Gather") and index == 0 and wide and node.attrs.get("axis", 0) == 0


def _look_up(node: gs.Node, stored: Stored) -> None:
    output = node.outputs[0]
    graph = node.owner  # type: ignore[attr-defined]
    ids, rank = node.inputs[1], _rank(node)
    found = stored.rows(graph, ids, rank or 0, f"{stored.name}_{ir.label(node)}")
    match.remove(node)
    rewrite.sweep(graph, ())
    found.inputs[0].outputs = [output]

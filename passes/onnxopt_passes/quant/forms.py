"""How a weight that is computed in float is stored.

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

from onnxopt import match, shapes
from onnxopt_passes.quant import coded, large, rows
from onnxopt_passes.quant.scheme import GRIDS, Grid

if TYPE_CHECKING:
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

    def written(self) -> Form:
        """Return the form that the opset of the graph that reads it has nodes for."""
        needed = AXIS_OPSET if self.view is None else BLOCK_OPSET
        opset: int = self.weight.uses[0][0].owner.opset  # type: ignore[attr-defined]
        return replace(self, kernel=self.kernel and opset >= needed)


@dataclass(frozen=True)
class Forms:
    """The forms of a model's weights.

    Attributes:
        chosen: One a weight.
        reasons: Why other large constants stay, by name.
        counts: Rows that products have, by the ids of their nodes; see `rows.count`.
    """

    chosen: list[Form]
    reasons: dict[str, str]
    counts: dict[int, int]


def plan(model: Model, options: Quant, ctx: Context) -> Forms:
    """Return how each weight is to be stored, and why others stay."""
    for root in (model.graph, *model.graph.functions):
        match.stamp(root)
    least = large.WORTHWHILE if options.mode == "weights" else large.LARGE
    weights, reasons = large.find(model, least)
    if not weights:
        return Forms([], reasons, {})
    if model.opset < LEAST_OPSET:
        word = f"opset {model.opset}: Mul does not broadcast before opset {LEAST_OPSET}"
        return Forms([], reasons | {w.name: word for w in weights}, {})
    shapes.infer(model)
    products = [n for w in weights if w.read_by("MatMul", 1) for n, _ in w.uses]
    counts = rows.count(model, products, ctx)
    return Forms([form(w, options, counts) for w in weights], reasons, counts)


def form(weight: Weight, options: Quant, counts: dict[int, int]) -> Form:
    """Return the form of a weight that the options ask for."""
    grid = GRIDS[options.weights]
    matrix = weight.read_by("MatMul", 1) and weight.values.ndim == 2
    matrix = matrix and weight.values.dtype == np.float32
    known = [counts.get(id(n)) for n, _ in weight.uses]
    few = matrix and all(k is not None and k <= rows.FEW.get(grid.bits, 0) for k in known)
    blocks = options.granularity == "block" or grid.bits < 8
    found = Form(weight, grid, options.symmetric)
    if blocks:
        wanted = matrix and grid.bits in (4, 8) and (None in known or not options.timed)
        return _blocks(found, options.block, few or wanted)
    if options.granularity == "tensor":
        return replace(found, axis=-1)
    if few and grid.bits == 8:
        return replace(found, axis=1, kernel=True)
    if weight.values.ndim == 2 and any(match.is_op(n, "Gather") for n, _ in weight.uses):
        return replace(found, axis=0)
    return found


def _blocks(form: Form, block: int, kernel: bool) -> Form:
    shape = form.weight.values.shape
    if form.weight.read_by("MatMul", 1) and len(shape) == 2:
        return replace(form, view=(1, *shape), block=block, kernel=kernel and shape[0] >= block)
    return replace(form, view=coded.along(shape, block), block=block)

"""Weights stored in integers and computed in float (mode=weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, rewrite, shapes
from onnxopt.model import ir
from onnxopt_passes.quant import forms, opset, weight_fit
from onnxopt_passes.quant.decode import Stored

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.large import Weight
    from onnxopt_passes.quant.weight_fit import Fitted

LEAST_ROW = 16
"""Elements that a row of an embedding has at least."""


def quantize_weights(
    model: Model, options: Quant, ctx: Context, source: Exported | None = None
) -> int:
    """Store each float weight over 1,024 elements in integers, in the form that stays fast.

    Smaller ones too, from 256 elements on, where `mode=weights` is asked for. Also runs after
    static and dynamic quantization, on what they left in float: weights that are integers already,
    or behind a DequantizeLinear, are not looked at. What stays in float is listed in
    `ctx.untouched` by the initializer's name, with the reason.

    Args:
        model: Edited in place; its opset is raised only where the form asked for needs it.
        options: weights, granularity, block, symmetric, recover.
        ctx: Asked with `weights@path/of/graph/initializer` before each edit.
        source: The model before the pass, None for `model` as it is given.

    Returns:
        How many weights were changed.
    """
    source = source or model.export()
    found = forms.plan(model, options, ctx)
    wanted = any(f.kernel and f.view is not None for f in found.chosen)
    if wanted and model.opset < forms.BLOCK_OPSET:
        reason = opset.raise_to(model, forms.BLOCK_OPSET, ctx)
        if reason:
            ctx.notes.append(f"blocks are unpacked without DequantizeLinear: {reason}")
        found = forms.plan(model, options, ctx)
    ctx.untouched.update(found.reasons)
    fitted = weight_fit.fit(model, found, options, ctx, source)
    edits = 0
    with rewrite.editing(model):
        for one in fitted:
            if ctx.allow(f"weights@{one.form.weight.name}"):
                _write(one)
                edits += 1
    return edits


def _write(fitted: Fitted) -> None:
    """Put the integers into the graph, and let all readers of the weight read those."""
    form = fitted.form.written()
    weight = form.weight
    if fitted.layer is not None and fitted.offsets is not None:
        fitted.layer.write_bias(fitted.layer.offsets() + fitted.offsets)
    stored = Stored(weight.tensor.name, fitted.coded, weight.values.dtype)
    home = weight.home
    whole: gs.Tensor | None = None
    for node, index in weight.uses:
        if _looks_up(node, index, weight) and fitted.coded.by_row and _rank(node) is not None:
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

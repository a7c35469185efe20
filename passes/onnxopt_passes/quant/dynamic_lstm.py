"""LSTMs whose products are in integers, by an operator of onnxruntime's own: for `ort-cpu` only.

    gates = s_x s_W (x_q W_q) + s_h s_R (h_q R_q) + b        s_W, s_R one a column: a gate of a unit

DynamicQuantizeLSTM rounds x and each h to uint8 as it goes. ONNX has no such operator, and none of
its own could be put around an LSTM. Where sums of two products saturate int16 such a net is
useless, so columns are narrowed so far that no input can make them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.quant import dynamic, saturation, scheme, units
from onnxopt_passes.quant.large import INTEGER_LSTM, LSTM_INPUTS
from onnxopt_passes.quant.saturation import LIMITS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnxopt.model import Model

DOMAIN = "com.microsoft"

Matrix = tuple[np.ndarray, np.ndarray]
"""Integers int8 (directions, inputs, 4 * hidden), and scales float32 (directions, 4 * hidden)."""


@dataclass(frozen=True)
class Cell(dynamic.Product):
    """An LSTM by constant weights.

    Attributes:
        weights: W and R, float32 of shape (directions, 4 * hidden, inputs).
    """

    weights: tuple[np.ndarray, np.ndarray]

    def code(self, saturates: bool) -> tuple[Matrix, Matrix]:
        """Return W and R in integers.

        Args:
            saturates: Whether the CPU adds two products in int16.
        """
        w, r = (_rounded(x, saturates) for x in self.weights)
        return w, r


def find(model: Model) -> list[Cell]:
    """Return the LSTMs of all graphs that can be in integers; shapes were inferred."""
    return [
        Cell(f"{path}{units.label(node)}", graph, node, weights)
        for path, graph in model.graphs()
        for node in graph.nodes
        if match.is_op(node, "LSTM") and (weights := _weights(node)) is not None
    ]


def _weights(node: gs.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return W and R of an LSTM that can be in integers."""
    if len(node.inputs) < 3 or match.attribute(node, "layout", 0):
        return None
    w, r = (match.constant(t) for t in node.inputs[1:3])
    if w is None or r is None or {w.dtype, r.dtype} != {units.FLOAT} or {w.ndim, r.ndim} != {3}:
        return None
    large = w.size + r.size > dynamic.LEAST
    return (w, r) if large and shapes.dtype(node.inputs[0]) in (None, units.FLOAT) else None


def _rounded(weight: np.ndarray, saturates: bool) -> Matrix:
    directions, columns, inputs = weight.shape
    rows = weight.reshape(-1, inputs)
    params = scheme.fit(rows, scheme.GRIDS["int8"], True, 0)
    if saturates:
        overflow = partial(dynamic.overflows, axis=0, reached=dynamic.anything(rows, 0))
        most = saturation.narrowed(rows, 0, overflow)
        params = replace(params, scale=np.asarray(params.scale * LIMITS[0] / most, np.float32))
    integers = scheme.quantize(rows, params).reshape(weight.shape)
    scale = params.scale.reshape(directions, columns)
    return np.ascontiguousarray(integers.transpose(0, 2, 1)), scale


def place(
    model: Model, chosen: Collection[str], coded: Mapping[str, tuple[Matrix, Matrix]]
) -> None:
    """Put LSTMs into integers.

    Args:
        model: Edited in place, inside `rewrite.editing`; shapes were inferred.
        chosen: Names of cells; others are not looked at.
        coded: What `Cell.code` gives, by name.
    """
    for cell in find(model):
        if cell.name in chosen:
            _replace(cell, coded[cell.name])
    for _, graph in model.graphs():
        graph.nodes[:] = [n for n in graph.nodes if not getattr(n, "removed", False)]


def _replace(cell: Cell, coded: tuple[Matrix, Matrix]) -> None:
    node, label = cell.node, units.label(cell.node)
    inputs = [*node.inputs, *(ir.Variable("") for _ in range(LSTM_INPUTS - len(node.inputs)))]
    for index, (integers, scale) in enumerate(coded, start=1):
        name = f"{label}.{'WR'[index - 1]}"
        zeros = np.zeros(scale.shape, np.int8)
        inputs[index] = gs.Constant(f"{name}.quantized", integers)
        inputs += [gs.Constant(f"{name}.scale", scale), gs.Constant(f"{name}.zero_point", zeros)]
    attributes = {k: v for k, v in node.attrs.items() if k != "layout"}
    outputs = list(node.outputs)
    made = ir.Node(INTEGER_LSTM, node.name, attributes, inputs, domain=DOMAIN)
    match.remove(node)
    made.outputs = outputs
    match.insert(cell.graph, made)

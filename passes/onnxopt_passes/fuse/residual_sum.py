"""LayerNormalization(Add(a, b))  ->  LayerNormalization(Sum(a, b)).

Sum of two tensors is Add. But onnxruntime fuses Add and LayerNormalization into one operator,
which on the CPU takes six to nine times as long as the two; Sum is not fused. Only where both terms
are computed (a residual), and for float32: for `ort-cpu`, kept where it measures faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BROADCASTS = 8
"""From this opset on, Sum broadcasts as Add does."""


def sum_residual(graph: gs.Graph, add: gs.Node) -> bool:
    """Write the Add of a residual in front of a normalization as Sum."""
    if graph.opset < BROADCASTS or any(match.constant(t) is not None for t in add.inputs):
        return False
    out = add.outputs[0]
    if shapes.dtype(out) != np.dtype(np.float32) or not _normalized(out):
        return False

    add.op = "Sum"
    return True


def _normalized(tensor: gs.Tensor) -> bool:
    """Whether a tensor goes into a LayerNormalization, or into what one is decomposed to."""
    ops = [n.op for n in tensor.outputs if n.domain in match.STANDARD]
    whole = any(
        n.op == "LayerNormalization" and n.inputs[0] is tensor
        for n in tensor.outputs
        if n.domain in match.STANDARD
    )
    return whole or ("ReduceMean" in ops and "Sub" in ops)


ORT_CPU_RULES: tuple[Rule, ...] = (Rule("residual_sum", ("Add",), sum_residual),)

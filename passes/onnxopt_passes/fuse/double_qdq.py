"""QuantizeLinear(DequantizeLinear(q, s, z), s, z)  ->  q        the same s, z, type and axis.

What is left of Q, DQ, Q, DQ in a row is one pair. (q - z) * s / s is off from q - z by less than a
half, so that rounding gives q again: 8 and 16 bits, scales of float32 that are normal numbers.

Nothing else is done to quantized models here: rules stand back from what is between a
DequantizeLinear and a QuantizeLinear, and a DequantizeLinear of weights is never folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

KINDS = (np.int8, np.uint8, np.int16, np.uint16)


def drop_requantization(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop a pair that quantizes what has just been dequantized, in the same way."""
    above = match.producer(node.inputs[0])
    if above is None or not match.is_op(above, "DequantizeLinear"):
        return False
    q, out = above.inputs[0], node.outputs[0]
    if shapes.dtype(q) not in KINDS or match.fetched(out):
        return False
    if not _same(above, node):
        return match.miss("the two have other scales, zero points or axes")

    match.replace(out, q)
    match.remove(node)
    return True


def _same(one: gs.Node, other: gs.Node) -> bool:
    """Whether two nodes of Q and DQ have the same parameters."""
    scales = [match.constant(n.inputs[1]) for n in (one, other)]
    zeros = [match.constant(n.inputs[2]) if match.given(n, 2) else None for n in (one, other)]
    if (
        scales[0] is None
        or scales[1] is None
        or any(n.attrs.get("block_size") for n in (one, other))
    ):
        return False
    if scales[0].dtype != np.float32 or not _equal(scales[0], scales[1]):
        return False
    if not (scales[0] >= np.finfo(np.float32).tiny).all():
        return False
    if scales[0].size > 1 and one.attrs.get("axis", 1) != other.attrs.get("axis", 1):
        return False
    if zeros[0] is None or zeros[1] is None:
        return not (match.given(one, 2) or match.given(other, 2)) and _unsigned(one, other)
    return _equal(zeros[0], zeros[1])


def _unsigned(one: gs.Node, other: gs.Node) -> bool:
    """Whether the type that Q has without a zero point, uint8, is that of q."""
    plain = "output_dtype" not in other.attrs
    return plain and shapes.dtype(one.inputs[0]) == np.uint8


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.size == b.size and bool((a.reshape(-1) == b.reshape(-1)).all())


RULES: tuple[Rule, ...] = (Rule("double_qdq", ("QuantizeLinear",), drop_requantization),)
"""The rule of this file."""

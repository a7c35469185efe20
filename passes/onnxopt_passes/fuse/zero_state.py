"""LSTM(x, W, R, 0, lengths, 0, 0, 0)  ->  LSTM(x, W, R, , lengths)       also GRU and RNN.

The standard takes a bias, initial states and peepholes that are absent as zeros
(https://onnx.ai/onnx/operators/onnx__LSTM.html). Exporters write initial states out, as zeros of a
shape that is computed from the batch at run time; layers may share them.

A tensor is known to be zeros if it is a constant of zeros, or one value of zero in any shape, moved
about by ops that make no new values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = (3, 5, 6, 7)
"""Inputs that are zeros where they are absent: bias, initial states, peepholes."""

MOVING = (
    *("Identity", "Cast", "Expand", "Tile", "Slice", "Split", "Gather"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
)
"""Ops whose results hold only values of their first input."""

DEPTH = 12
"""Nodes that are followed upwards."""


def drop_zero_states(graph: gs.Graph, node: gs.Node) -> bool:
    """Drop states of zeros."""
    zeros = [i for i in STATES if match.given(node, i) and _zeros(node.inputs[i], DEPTH)]
    if not zeros:
        return False

    kept = [gs.Variable.empty() if i in zeros else t for i, t in enumerate(node.inputs)]
    node.inputs = _trimmed(kept)
    return True


def _zeros(tensor: gs.Tensor, depth: int) -> bool:
    """Whether all elements of a tensor of floats are known to be 0."""
    values = match.constant(tensor)
    if values is not None:
        return values.dtype.kind == "f" and not values.any()
    node = match.producer(tensor)
    if node is None or depth == 0:
        return False
    if match.is_op(node, "ConstantOfShape"):
        held = node.attrs.get("value")
        return held is None or (isinstance(held, gs.Constant) and _zeros(held, depth - 1))
    if match.is_op(node, "Concat"):
        return all(_zeros(t, depth - 1) for t in node.inputs)
    return match.is_op(node, *MOVING) and _zeros(node.inputs[0], depth - 1)


def _trimmed(inputs: Sequence[gs.Tensor]) -> list[gs.Tensor]:
    """Return inputs without the absent ones at the end."""
    found = list(inputs)
    while not found[-1].name:
        found.pop()
    return found


RULES: tuple[Rule, ...] = (Rule("zero_state", match.RECURRENT, drop_zero_states),)
"""Next to that for biases of layers."""

"""LSTM, GRU and RNN: the hidden width H.

The weights are W (directions, gates x H, inputs), R (directions, gates x H, H), B (directions,
2 x gates x H) and, of an LSTM, peepholes (directions, 3 x H). Both directions share their H.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt_passes.prune import axes
from onnxopt_passes.prune.axes import Prod
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.sheet import Sheet, Standback

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    from onnxopt_passes.prune.axes import Axis

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Inputs that begin as hidden states."""

PEEPHOLES = 7


def recurrent(sheet: Sheet, node: gs.Node) -> None:
    """LSTM, GRU and RNN of one or two directions, in both layouts."""
    x, w, r = (sheet.axes(t) for t in node.inputs[:3])
    gates = GATES[node.op]
    hidden = r[2]
    if axes.size(hidden) is None or axes.size(r[1]) != gates * (axes.size(hidden) or 0):
        raise Standback("its weights do not fit its gates")
    sheet.unify(x[2], w[2], node)
    for slot, tensor in enumerate(node.inputs[1:4]):
        if match.given(node, slot + 1):
            sheet.freeze(sheet.axes(tensor)[0], node, "directions")
    reason = f"gates ({node.op} {node.name!r})"
    rows = Prod((axes.new(gates, reason), hidden))
    sheet.unify(w[1], rows, node)
    sheet.unify(r[1], rows, node)
    _weights(sheet, node, gates, hidden, reason)
    for slot in STATES[node.op]:
        if match.given(node, slot):
            sheet.unify(sheet.axes(node.inputs[slot])[-1], hidden, node)
    for slot, axis, role in (
        (1, 1, Role.PRODUCER),
        (1, 2, Role.CONSUMER),
        (2, 1, Role.PRODUCER),
        (2, 2, Role.CONSUMER),
    ):
        sheet.role(node.inputs[slot], axis, role)
    if "hidden_size" in node.attrs:
        sheet.number(node, "hidden_size", None, hidden)
    _results(sheet, node, x, w[0], hidden)


def _weights(sheet: Sheet, node: gs.Node, gates: int, hidden: Axis, reason: str) -> None:
    for slot, blocks in ((3, 2 * gates), (PEEPHOLES, 3)):
        if match.given(node, slot):
            found = sheet.axes(node.inputs[slot])[1]
            sheet.unify(found, Prod((axes.new(blocks, reason), hidden)), node)


def _results(
    sheet: Sheet, node: gs.Node, x: tuple[Axis, ...], directions: Axis, hidden: Axis
) -> None:
    layout = node.attrs.get("layout", 0)
    if layout not in (0, 1):
        raise Standback("its layout is not known")
    if layout:
        states = [x[0], directions, hidden]
        sequence = [x[0], x[1], directions, hidden]
    else:
        states = [directions, x[1], hidden]
        sequence = [x[0], directions, x[1], hidden]
    for i, out in enumerate(node.outputs):
        sheet.put(out, states if i else sequence)


RULES: dict[str, Callable[[Sheet, gs.Node], None]] = dict.fromkeys(GATES, recurrent)

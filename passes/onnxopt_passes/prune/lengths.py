"""Lengths of axes that shape inference does not find.

What fills a computed shape is as long as its numbers say, where these are known; and an axis that a
weight contracts is as long as that of the weight, or the model would not run. Exporters that leave
batch and sequence open compute many shapes, and a Reshape to `[batch, sequence, -1]` in front of a
MatMul would otherwise hide the heads of an attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxopt import match, shape_values, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.shape_values import Elements
    from onnxopt_passes.prune.observe import Lengths

SAME_SHAPE = (
    *("Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *(
        "Identity",
        "LeakyRelu",
        "LogSoftmax",
        "Mish",
        "Neg",
        "Relu",
        "Sigmoid",
        "Softmax",
        "Softplus",
    ),
    *("Sqrt", "Swish", "Tanh"),
)
"""Ops whose output has the shape of their first input."""


def refine(order: Sequence[gs.Node], observed: Lengths | None = None) -> None:
    """Note lengths on tensors, beside those that inference has found.

    Args:
        order: Nodes of a main graph after `shapes.infer`, in the order of the data flow.
        observed: Lengths that runs have shown.
    """
    for tensor in (t for node in order for t in node.outputs):
        if observed and observed.get(tensor.name):
            shapes.learn_all(tensor, observed[tensor.name])
    if all(shapes.static(tensor) is not None for node in order for tensor in node.outputs):
        return
    memo: dict[int, Elements] = {}
    for node in order:
        if match.is_op(node, *FILLED):
            _fill(node, memo)
        elif match.is_op(node, "Reshape") and len(node.inputs) > 1:
            _open_length(node, memo)
    for node in reversed(order):
        if match.is_op(node, *DEMANDS):
            DEMANDS[node.op](node)


def _fill(node: gs.Node, memo: dict[int, Elements]) -> None:
    """Give the result of an Expand or a ConstantOfShape the lengths that its shape has."""
    out, slot = node.outputs[0], FILLED[node.op]
    known = shapes.dims(out)
    if known is None or all(isinstance(d, int) for d in known):
        return
    wanted = shape_values.elements(node.inputs[slot], memo=memo)
    base = shapes.dims(node.inputs[0]) if slot else ()
    if wanted is None or base is None:
        return
    for i in range(-len(known), 0):
        number = wanted[i] if -i <= len(wanted) else 1
        length = base[i] if -i <= len(base) else 1
        if isinstance(number, int) and number > 1:
            shapes.learn(out, i, number)
        elif number == 1 and isinstance(length, int):
            shapes.learn(out, i, length)


def _open_length(node: gs.Node, memo: dict[int, Elements]) -> None:
    """Find the -1 of a Reshape where all that is not known stands on both sides."""
    source, out = node.inputs[0], node.outputs[0]
    base, wanted = shapes.dims(source), shape_values.elements(node.inputs[1], memo=memo)
    if base is None or wanted is None or wanted.count(-1) != 1 or node.attrs.get("allowzero", 0):
        return
    before = [shapes.axis(source, i) for i in range(len(base))]
    after = [before[i] if e == 0 and i < len(before) else e for i, e in enumerate(wanted)]
    place = after.index(-1)
    del after[place]
    for length in [e for e in after if not isinstance(e, int)]:
        if length not in before:
            return
        before.remove(length)
        after.remove(length)
    if all(isinstance(e, int) for e in before) and 0 not in after:
        shapes.learn(out, place, math.prod(before) // math.prod(after))  # type: ignore[arg-type]


def _meet(a: gs.Tensor, i: int, b: gs.Tensor, j: int, times: int = 1) -> None:
    """Let axis i of a tensor, and axis j of another times a number, be of one length."""
    lengths = shapes.dims(a), shapes.dims(b)
    if any(found is None for found in lengths):
        return
    ours, theirs = lengths[0][i], lengths[1][j]  # type: ignore[index]
    if isinstance(theirs, int):
        shapes.learn(a, i, theirs * times)
    elif isinstance(ours, int) and times == 1:
        shapes.learn(b, j, ours)


def _rank(tensor: gs.Tensor) -> int:
    return len(shapes.dims(tensor) or ())


def _matmul(node: gs.Node) -> None:
    a, b = node.inputs
    if _rank(a) and _rank(b):
        _meet(a, -1, b, max(-2, -_rank(b)))


def _gemm(node: gs.Node) -> None:
    a, b = node.inputs[:2]
    flags = [node.attrs.get(name, 0) for name in ("transA", "transB")]
    if _rank(a) == _rank(b) == 2 and all(f in (0, 1) for f in flags):
        _meet(a, 0 if flags[0] else 1, b, 1 if flags[1] else 0)


def _conv(node: gs.Node) -> None:
    x, w = node.inputs[:2]
    groups = node.attrs.get("group", 1)
    if _rank(x) > 2 and _rank(w) > 2 and isinstance(groups, int):
        _meet(x, 1, w, 1, groups)


def _conv_transpose(node: gs.Node) -> None:
    x, w = node.inputs[:2]
    if _rank(x) > 2 and _rank(w) > 2:
        _meet(x, 1, w, 0)


def _recurrent(node: gs.Node) -> None:
    x, w = node.inputs[:2]
    if _rank(x) == _rank(w) == 3:
        _meet(x, 2, w, 2)


def _batch_norm(node: gs.Node) -> None:
    x, scale = node.inputs[:2]
    if _rank(x) > 1 and _rank(scale) == 1:
        _meet(x, 1, scale, 0)


def _layer_norm(node: gs.Node) -> None:
    x, scale = node.inputs[:2]
    known = shapes.dims(scale)
    for i in range(-min(_rank(x), _rank(scale)), 0):
        if known is not None and known[i] != 1:  # one scale may serve a whole axis
            _meet(x, i, scale, i)
    _same(node)


def _same(node: gs.Node) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if _rank(x) == _rank(y):
        for i in range(_rank(x)):
            _meet(x, i, y, i)


def _transpose(node: gs.Node) -> None:
    x, y = node.inputs[0], node.outputs[0]
    perm = node.attrs.get("perm", list(range(_rank(x)))[::-1])
    if _rank(x) == _rank(y) and isinstance(perm, list) and sorted(perm) == list(range(_rank(x))):
        for i, p in enumerate(perm):
            _meet(x, p, y, i)


FILLED = {"Expand": 1, "ConstantOfShape": 0}
"""Ops that fill a shape, and the input that it is."""

DEMANDS: dict[str, Callable[[gs.Node], None]] = {
    **dict.fromkeys(SAME_SHAPE, _same),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "RMSNormalization": _layer_norm,
    "RNN": _recurrent,
    "Transpose": _transpose,
}
"""What ops ask of the lengths of their inputs."""

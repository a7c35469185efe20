"""Conv(Pad(x, p, value=0), W, pads=q)  ->  Conv(x, W, pads=p + q).

For Pads that nothing but Convs read, all of which take it in. The Pad fills the spatial axes alone,
with zeros, and crops nothing. A Conv with auto_pad=VALID gets explicit pads; SAME depends on the
padded size and is left alone. Pools, ConvTranspose and the integer convolutions, whose zero is not
0, are left alone too. Exact: a Conv's own padding is zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_pad_conv(graph: gs.Graph, pad: gs.Node) -> bool:
    """Let all Convs that read a zero Pad do its work."""
    padded = pad.outputs[0]
    convs = list(dict.fromkeys(padded.outputs))
    if not convs or match.fetched(padded) or not _zeros(graph, pad):
        return False
    if not all(match.is_op(c, "Conv") and match.here(graph, c) for c in convs):
        if any(match.is_op(c, "Conv") for c in convs):
            return match.miss("not only Convs of this graph read the padded tensor")
        return False
    amounts = _amounts(pad, convs[0])
    if amounts is None:
        return match.miss("its amounts are not constant, or negative, or not only spatial")
    sums = [_pads(conv, padded, amounts) for conv in convs]
    if any(s is None for s in sums):
        return match.miss("a Conv pads by auto_pad, or reads the padded tensor as weights")

    x = pad.inputs[0]
    match.remove(pad)
    for conv, pads in zip(convs, sums, strict=True):
        conv.inputs = [x, *conv.inputs[1:]]
        conv.attrs["pads"] = pads
        conv.attrs.pop("auto_pad", None)
    return True


def _zeros(graph: gs.Graph, pad: gs.Node) -> bool:
    """Whether a Pad fills with zeros."""
    if match.attribute(pad, "mode", "constant") != "constant":
        return False
    if graph.opset < 11:
        return bool(match.attribute(pad, "value", 0.0) == 0)
    return not match.given(pad, 2) or match.scalar(pad.inputs[2]) == 0


def _amounts(pad: gs.Node, conv: gs.Node) -> list[int] | None:
    """Return a Pad's amounts as a Conv orders them; None if unknown, negative, or not spatial."""
    pads = match.integers(pad, 1, "pads")
    weight = shapes.dims(conv.inputs[1])
    if pads is None or min(pads, default=0) < 0:
        return None
    if match.given(pad, 3):
        axes = match.integers(pad, 3, "axes")
        if axes is None or weight is None:
            return None
        rank = len(weight)
        axes = [a % rank for a in axes]
    else:
        rank = len(pads) // 2
        axes = list(range(rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes) or rank < 3:
        return None
    half = len(axes)
    begin = dict(zip(axes, pads[:half], strict=True))
    end = dict(zip(axes, pads[half:], strict=True))
    if any(side.get(axis, 0) for side in (begin, end) for axis in (0, 1)):
        return None
    return [side.get(axis, 0) for side in (begin, end) for axis in range(2, rank)]


def _pads(conv: gs.Node, padded: gs.Tensor, amounts: list[int]) -> list[int] | None:
    """Return the pads of a Conv that takes in a Pad; None if it cannot, or reads it as weights."""
    if any(t is padded for t in conv.inputs[1:]):
        return None
    mode = match.attribute(conv, "auto_pad", "NOTSET")
    own = match.attribute(conv, "pads", None) if mode == "NOTSET" else None
    own = [0] * len(amounts) if own is None else own
    if mode not in ("NOTSET", "VALID") or not isinstance(own, list) or len(own) != len(amounts):
        return None
    return [a + b for a, b in zip(own, amounts, strict=True)]

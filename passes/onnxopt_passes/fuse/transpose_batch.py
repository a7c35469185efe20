"""The last two axes of a tensor, swapped by way of three axes, to one Transpose.

Reshape(Transpose(Reshape(x, [-1, a, b]), [0, 2, 1]), [.., b, a])  ->  Transpose(x, [.., -1, -2])

x is [.., a, b], and the result has the same leading axes. PyTorch writes attention so; runtimes
fold the right side into a MatMul.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fuse_transpose_batch(graph: gs.Graph, outer: gs.Node) -> bool:
    """Swap the last two axes of a tensor without joining those before."""
    turned = match.sole(graph, outer.inputs[0], "Transpose")
    inner = None if turned is None else match.producer(turned.inputs[0])
    if turned is None or inner is None or not match.is_op(inner, "Reshape"):
        return False
    if match.attribute(turned, "perm", None) != [0, 2, 1] or not match.here(graph, inner):
        return False
    x = inner.inputs[0]
    dims, flat, out = (shapes.dims(t) for t in (x, inner.outputs[0], outer.outputs[0]))
    if dims is None or flat is None or out is None or len(dims) < 4 or len(flat) != 3:
        return False
    if None in dims or dims[-2:] != flat[-2:] or not _swapped(dims, out):
        return match.miss("its axes are not known to be those of the tensor")
    if match.quantized(x, outer.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    perm = [*range(len(dims) - 2), len(dims) - 1, len(dims) - 2]
    new = ir.Node("Transpose", outer.name, {"perm": perm}, [x])
    return scalars.finish(graph, outer, new)


def _swapped(dims: tuple[int | str | None, ...], out: tuple[int | str | None, ...]) -> bool:
    """Whether a result of as many elements has the last two axes swapped, the others in place.

    One size may be unknown: it is what the others leave.
    """
    if len(out) != len(dims):
        return False
    pairs = list(zip((*dims[:-2], dims[-1], dims[-2]), out, strict=True))
    other = [b for a, b in pairs if a != b]
    return not other or (len(other) == 1 and not isinstance(other[0], int))


RULES: tuple[Rule, ...] = (Rule("transpose_batch", ("Reshape",), fuse_transpose_batch),)
"""Before attention, whose keys are transposed so."""

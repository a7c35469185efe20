"""What stayed in float, and why: no large weight is left out without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt_passes.quant import large, units

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnxopt.base import Context
    from onnxopt.model import Model


def large_floats(model: Model) -> Iterator[tuple[str, gs.Tensor, list[gs.Node]]]:
    """Yield large float constants that nodes read: path and name, the tensor, its readers."""
    for path, graph in model.graphs():
        seen: set[int] = set()
        for node in graph.nodes:
            for tensor in (*node.inputs, *_held(node)):
                values = None if id(tensor) in seen else match.constant(tensor)
                seen.add(id(tensor))
                if values is None or values.size <= large.LARGE or values.dtype.kind != "f":
                    continue
                if large.is_scale(tensor):
                    continue
                readers = [node] if tensor not in list(node.inputs) else list(tensor.outputs)
                yield f"{path}{tensor.name or units.label(node)}", tensor, readers


def _held(node: gs.Node) -> list[gs.Tensor]:
    return [v for v in node.attrs.values() if isinstance(v, gs.Constant)]


def complete(model: Model, ctx: Context, floats: Mapping[str, str]) -> None:
    """List each large weight that is still in float and that nobody has listed.

    Args:
        model: The model as it leaves the pass.
        ctx: `untouched` gets name -> reason.
        floats: Units that stayed in float, and why.
    """
    for name, tensor, readers in large_floats(model):
        if name in ctx.untouched or tensor.name in ctx.untouched:
            continue
        known = (floats.get(units.label(r)) for r in readers if r.outputs)
        ops = ", ".join(sorted({r.op for r in readers}))
        ctx.untouched[name] = next(
            (k for k in known if k), f"read by {ops}, which is not among what was quantized"
        )

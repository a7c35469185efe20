"""What stayed in float, and why: no large weight is left out without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt_passes.quant import large, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.base import Context
    from onnxopt.model import Model


def complete(model: Model, ctx: Context, floats: Mapping[str, str]) -> None:
    """List each large weight that is still in float and that nobody has listed.

    Args:
        model: The model as it leaves the pass.
        ctx: `untouched` gets name -> reason.
        floats: Units that stayed in float, and why.
    """
    for name, tensor, values, readers in large.constants(model, large.LARGE):
        if values.dtype.kind != "f" or name in ctx.untouched or tensor.name in ctx.untouched:
            continue
        known = (floats.get(units.label(r)) for r in readers if r.outputs)
        ops = ", ".join(sorted({r.op for r in readers}))
        ctx.untouched[name] = next(
            (k for k in known if k), f"read by {ops}, which is not among what was quantized"
        )

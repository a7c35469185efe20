"""Floats of 16 bits (mode=fp16, mode=bf16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt_passes.quant import Quant


def convert(model: Model, options: Quant, ctx: Context) -> int:
    """Compute and store in 16 bits; what would overflow, on calibration samples, stays in 32.

    Args:
        model: Edited in place; inputs and outputs keep their types.
        options: mode.
        ctx: Asked with `half@path/of/graph/node` before each node is converted.

    Returns:
        How many nodes were converted.

    Raises:
        SpecError: This version cannot do it.
    """
    raise SpecError(f"quant: mode={options.mode} is not in this version")

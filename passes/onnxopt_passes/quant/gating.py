"""HardSigmoid and HardSwish in integers, for which onnxruntime has no kernel.

    HardSigmoid(x) = clip(a x + b, 0, 1) = a clip(x + b / a, 0, 1 / a)
    HardSwish(x) = x HardSigmoid(x; 1/6, 1/2)

The clip is what integers do by themselves where they span 0..1/a, so that the first is one
addition, and the factor a is nothing but another scale by which the same integers are read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt_passes.quant import scheme

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt_passes.quant.scheme import Grid, Params

OPS = ("HardSigmoid", "HardSwish")

SUFFIX = ".gate"
"""How the addition of a HardSwish is called, behind the name of the unit."""


def slope(node: gs.Node) -> tuple[float, float]:
    """Return a and b of one of OPS."""
    if node.op == "HardSwish":
        return 1 / 6, 0.5
    return float(match.attribute(node, "alpha", 0.2)), float(match.attribute(node, "beta", 0.5))


def able(node: gs.Node) -> bool:
    """Whether a node rises: then its clip is that of integers."""
    a, b = slope(node)
    return a > 0 and bool(np.isfinite(b / a))


def shift(node: gs.Node, grid: Grid) -> tuple[np.ndarray, Params]:
    """Return b / a as integers, of shape (), and their scheme."""
    a, b = slope(node)
    value = np.asarray(b / a, np.float32)
    params = scheme.fit(value, grid, False)
    return scheme.quantize(value, params), params


def schemes(node: gs.Node, grid: Grid) -> tuple[Params, Params]:
    """Return the scheme of clip(x + b / a, 0, 1 / a), and that of a times it."""
    a, _ = slope(node)
    params = scheme.affine(0.0, 1 / a, grid)
    return params, replace(params, scale=np.asarray(params.scale * a, np.float32))

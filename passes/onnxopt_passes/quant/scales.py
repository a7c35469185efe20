"""Scales that suit the weight itself, where what its layer reads is not known: bodies, embeddings.

scale * f,      f in 1.0 .. 0.5 the one of least sum (w - s (q - z))^2 over all that share it
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt_passes.quant import rounding, scheme

if TYPE_CHECKING:
    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.scheme import Params

STEP = "scales"
"""How reports call it."""


def shrunk(values: np.ndarray, coded: Coded) -> Coded:
    """Return a weight with the factor for each scale that loses least.

    Args:
        values: The weight, float.
        coded: The same, rounded to nearest.
    """
    seen = values.reshape(coded.view or coded.shape)
    best = np.ones(coded.params.scale.shape)
    least = np.full(best.shape, np.inf)
    for factor in rounding.FACTORS[True]:
        params = _scaled(coded.params, factor)
        rounded = scheme.rounded(seen, params)
        found = _sums(np.square(seen - rounded, dtype=np.float64), params)
        better = found < least
        best, least = np.where(better, factor, best), np.where(better, found, least)
    params = _scaled(coded.params, best)
    return replace(coded, params=params, integers=scheme.quantize(seen, params))


def _scaled(params: Params, factor: np.ndarray | float) -> Params:
    return replace(params, scale=np.asarray(params.scale * factor, np.float32))


def _sums(squares: np.ndarray, params: Params) -> np.ndarray:
    """Return the sum over all elements of each scale, of the scales' shape."""
    if params.axis is None:
        return np.asarray(squares.sum())
    if params.block:
        starts = np.arange(0, squares.shape[params.axis], params.block)
        return np.asarray(np.add.reduceat(squares, starts, params.axis))
    others = tuple(i for i in range(squares.ndim) if i != params.axis % squares.ndim)
    return np.asarray(squares.sum(others))

"""What a tensor is read through: ranges are chosen by the error behind that, not before it.

    y = f(x)            all readers of x are one elementwise function
    y = x g(x)          they are a gate and the product with it: SiLU, HardSwish in parts

An error of x weighs f'(x)^2. Far below zero a SiLU is flat, so that its input may be clipped
there, and what is above has finer steps; below -3 a HardSwish is zero, and clipping is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.statistics.histogram import itself
from onnxopt_passes.quant import gating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt.statistics import Histogram
    from onnxopt.statistics.histogram import Function
    from onnxopt_passes.quant.units import Unit


def _sigmoid(_: gs.Node, x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _tanh(_: gs.Node, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.tanh(x))


def _relu(_: gs.Node, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0))


def _leaky(node: gs.Node, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, match.attribute(node, "alpha", 0.01) * x, x)


def _hard_sigmoid(node: gs.Node, x: np.ndarray) -> np.ndarray:
    a, b = gating.slope(node)
    return np.asarray(np.clip(a * x + b, 0, 1))


def _hard_swish(node: gs.Node, x: np.ndarray) -> np.ndarray:
    return np.asarray(x * _hard_sigmoid(node, x))


FUNCTIONS: dict[str, Callable[[gs.Node, np.ndarray], np.ndarray]] = {
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
}
"""Elementwise operators of one input, float64 in and out."""


def function(tensor: gs.Tensor) -> Function:
    """Return what all readers of a tensor make of it, the identity where that is not known."""
    readers = list(tensor.outputs)
    gates = [n for n in readers if match.is_op(n, *FUNCTIONS)]
    if match.fetched(tensor) or len(gates) != 1 or len(readers) > 2:
        return itself
    gate = gates[0]
    if len(readers) == 1:
        return lambda x: FUNCTIONS[gate.op](gate, x)
    (product,) = (n for n in readers if n is not gate)
    made = gate.outputs[0]
    together = {id(tensor), id(made)} == {id(t) for t in product.inputs}
    if not match.is_op(product, "Mul") or not together or match.fetched(made):
        return itself
    return itself if len(made.outputs) > 1 else lambda x: x * FUNCTIONS[gate.op](gate, x)


def spans(
    found: Iterable[Unit], histograms: Mapping[str, Histogram], method: str
) -> dict[str, tuple[float, float]]:
    """Return the ranges of tensors at units by name, without those that are not finite."""
    tensors = {t.name: t for u in found for t in (*u.inputs, u.output)}
    return {
        name: held.span(method, through=function(tensors[name]))
        for name, held in histograms.items()
        if not held.trouble
    }

"""Channels of what products read, brought to like size in front of them.

    y = x W = (x S^-1) (S W)            S diagonal: one factor a channel of x

SmoothQuant (Xiao et al. 2023). S^-1 goes into the layer that makes x, where there is one
(`equalize.find`: behind attention that is the layer of its values). Elsewhere it is a Mul: behind a
LayerNormalization whose result is also added to that of the products, as in BERT, or behind a GELU.
With A the largest magnitude of a channel, and B that of the rows of W that read it:

    s = A^alpha / B^(1 - alpha)

and of several alpha, the one of least rounding noise. One scale for all of x has steps of
2 max(A / s) / 255, one for each column of W has steps of max(|w| s) / 127, and values of x are
taken to be a fourth of A:

    max_k(A_k / s_k)^2 (2 / 255)^2 sum_kc (s_k W_kc)^2
        + sum_k (A_k / 4 s_k)^2 sum_c max_k(s_k |W_kc|)^2 / 127^2

A Mul costs about as much as an Add of a bias, so a tensor is left as it is unless that is halved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match
from onnxopt.statistics import extremes, linear
from onnxopt_passes.quant import dynamic, equalize, units

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt.statistics import Linear

STEP = "smoothing"
"""How plans and reports call it."""

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

WORTH = 0.5
"""Share of the noise that may be left, at most."""

Readers = dict[str, list["Linear"]]
"""The products that read a tensor, by its name."""


def find(model: Model) -> Readers:
    """Return the tensors of the main graph whose products can all be given other weights."""
    layers = {id(layer.node): layer for layer in linear.find_all(model.graph)}
    found: dict[str, list[Linear | None]] = {}
    for product in dynamic.find(model):
        if product.graph is model.graph:
            layer = layers.get(id(product.node))
            found.setdefault(product.node.inputs[0].name, []).append(layer)
    return {
        name: [x for x in readers if x is not None]
        for name, readers in found.items()
        if None not in readers
    }


def measure(model: Model, samples: Samples, settings: Settings) -> dict[str, np.ndarray]:
    """Return S for each tensor where it is worth a Mul, float32 (channels,).

    Raises:
        CannotRun: onnxruntime cannot run the model on a sample.
    """
    readers = find(model)
    if not readers:
        return {}
    axes = dict.fromkeys(readers, -1)
    largest = extremes.largest(model, axes, samples, settings, magnitude=True)
    found = {name: factors(largest[name], _rows(layers)) for name, layers in readers.items()}
    return {name: s for name, s in found.items() if s is not None}


def factors(largest: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Return S, None where it is not worth a Mul.

    Args:
        largest: Largest magnitude of each channel, (K,).
        rows: The weights that read them, (K, columns).
    """
    magnitudes = np.abs(rows)
    reach = magnitudes.max(1)
    seen = (largest > 0) & (reach > 0)
    if not seen.any() or not np.isfinite(largest).all():
        return None
    a, b = (np.log(np.where(seen, v, 1.0).astype(np.float64)) for v in (largest, reach))
    squares = (rows.astype(np.float64) ** 2).sum(1)

    def noise(s: np.ndarray) -> float:
        scaled = largest / s
        inputs = (scaled.max() * 2 / 255) ** 2 * (s**2 @ squares)
        weights = (scaled**2).sum() / 16 * ((magnitudes * s[:, None]).max(0) ** 2).sum() / 127**2
        return float(inputs + weights)

    tried = []
    for alpha in ALPHAS:
        exponent = alpha * a - (1 - alpha) * b
        tried.append(np.exp(np.where(seen, exponent - exponent[seen].mean(), 0.0)))
    best = min(tried, key=noise)
    worth = noise(best) < WORTH * noise(np.ones(len(best)))
    return best.astype(np.float32) if worth else None


def _rows(layers: list[Linear]) -> np.ndarray:
    """Return the weights of products that read one tensor side by side, (K, columns)."""
    return np.asarray(np.concatenate([layer.matrix()[0] for layer in layers]).T)


def apply(model: Model, found: Mapping[str, np.ndarray], products: Set[str]) -> None:
    """Smooth what products read, in place.

    Args:
        model: The model that was measured.
        found: S by the names of tensors.
        products: Labels of nodes; a tensor is smoothed if one of these reads it.
    """
    able = find(model) if found else {}
    before = equalize.find(model) if found else {}
    for name in sorted(found.keys() & able):
        layers, s = able[name], found[name]
        if products.isdisjoint(units.label(layer.node) for layer in layers):
            continue
        if name in before:
            before[name].apply(s)
            continue
        source = layers[0].source
        smoothed = gs.Variable(f"{name}.smoothed", np.float32)
        by = gs.Constant(f"{name}.smoothing", (1 / s).astype(np.float32))
        match.insert(model.graph, gs.Node("Mul", smoothed.name, {}, [source, by], [smoothed]))
        for layer in layers:
            layer.write(layer.matrix() * s)
            layer.node.inputs[0] = smoothed

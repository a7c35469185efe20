"""Chains of arithmetic with constants, as few nodes as they need.

(x * a) * b  ->  x * (a * b)            (x + a) + b          ->  x + (a + b)
(x / a) * b  ->  x * (b / a)            ((x * a) + b) * c    ->  x * (a * c) + b * c
(a - x) - b  ->  (a - b) - x            ((x + a) * b) + c    ->  x * b + (a * b + c)

Two or three nodes x -> ... that nobody else reads are one formula x * k + d, and are replaced if
that takes fewer nodes: one where d is 0, or where k is 1 or -1, else two.

Exact up to rounding where nothing cancels: `(x + 2^23) - 2^23` rounds x on purpose. So the
summands may not be large against what they add up to, and factors lie in a range where nothing
overflows on the way. No constant grows, and none is widened by another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import layer as layers
from onnxopt_passes.fuse.term import OPS, Term, gelu, read

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LENGTH = 3
"""Terms at a time; a longer chain shrinks step by step."""

RANGE = {2: 2.0**6, 4: 2.0**24, 8: 2.0**24}
"""By bytes of the type: the largest factor and the inverse of the smallest."""

CANCEL = 16.0
"""How much larger than their sum summands may be."""


def fuse_affine_chain(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a chain of arithmetic with constants that ends here in fewer nodes."""
    last = read(graph, node)
    if last is None:
        return False
    chain = [last]
    while len(chain) < LENGTH:
        term = read(graph, match.sole(graph, chain[0].source, *OPS))
        if term is None or term.dtype != last.dtype:
            break
        chain.insert(0, term)
        if _merge(graph, chain):
            return True
    return False


def _merge(graph: gs.Graph, chain: list[Term]) -> bool:
    """Replace a chain by one node, or three by two."""
    source, last = chain[0].source, chain[-1]
    if gelu(source) or match.quantized(source, last.node.outputs[0]):
        return False
    found = _composed(chain)
    if found is None:
        return False
    k, d = found
    unit = bool((np.abs(k) == 1).all() and (k == k.reshape(-1)[0]).all())
    needed = [a for a, idle in ((k, unit and d.any()), (d, not d.any())) if not idle]
    if len(needed) >= len(chain):
        return False
    if not _fit(needed, chain):
        return match.miss("a merged constant would be larger, or is not finite")

    _write(chain, k, d, unit)
    return True


def _composed(chain: list[Term]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return k and d of a whole chain; None where a factor is extreme or summands cancel."""
    limit = RANGE[chain[0].dtype.itemsize]
    k, d = np.asarray(np.float64(1)), np.asarray(np.float64(0))
    parts = 0.0
    for term in chain:
        size = np.abs(term.k)
        if size.max() > limit or size.min() < 1 / limit:
            return None
        k, d = np.asarray(k * term.k), np.asarray(d * term.k + term.d)
        parts = max(parts * float(size.max()), float(np.abs(term.d).max()))
    size = np.abs(k)
    if size.max() > limit or size.min() < 1 / limit or parts > CANCEL * float(np.abs(d).max()):
        return None
    return k, d


def _fit(constants: list[np.ndarray], chain: list[Term]) -> bool:
    """Whether new constants are finite, no larger than the old ones, and broadcast to the same."""
    largest = max(t.values.size for t in chain)
    if any(a.size > largest or layers.rounded(a, chain[0].dtype) is None for a in constants):
        return False
    before = np.broadcast_shapes(*(t.values.shape for t in chain))
    return before == np.broadcast_shapes(*(a.shape for a in constants))


def _write(chain: list[Term], k: np.ndarray, d: np.ndarray, unit: bool) -> None:
    """Make the last node of a chain, and the one before if need be, compute x * k + d."""
    source, last = chain[0].source, chain[-1]
    dtype, out = last.dtype, last.node.outputs[0]
    scale = ir.Constant(f"{out.name}.scale", np.asarray(k, dtype))
    shift = ir.Constant(f"{out.name}.shift", np.asarray(d, dtype))
    negative = unit and bool((k < 0).all())
    node = last.node
    for term in chain[:-1]:
        if term is not chain[-2] or unit or not d.any():
            match.remove(term.node)
    if not unit and d.any():
        scaled = ir.Variable(f"{out.name}.scaled", dtype=dtype)
        inner = chain[-2].node
        inner.op, inner.inputs, inner.outputs = "Mul", [source, scale], [scaled]
        source = scaled
    if not d.any():
        node.op, node.inputs = "Mul", [source, scale]
    elif negative:
        node.op, node.inputs = "Sub", [shift, source]
    else:
        node.op, node.inputs = "Add", [source, shift]


RULES: tuple[Rule, ...] = (Rule("affine_chain", OPS, fuse_affine_chain),)
"""The rule of this file."""

"""Constant() -> initializer;  weight -> weight, subnormal values flushed to zero.

Lifting: the values of a Constant node become an initializer, where a session can share them, other
parts find them, and no node runs. Not in functions, which have no initializers; not before IR
version 4, where an initializer has to be an input; not strings and sparse tensors; not where a
graph returns the node's output.

A Range gets scalars where it reads constants of shape [1]: `scalar_range`.

Flushing: a product with a subnormal value is slow on many CPUs, and less than 1.2e-38 times the
other factor. Only in weights whose every reader multiplies and sums (`SUMS`): anywhere else a tiny
value may be the point, as an epsilon that keeps a logarithm finite. float16 is left alone: its
subnormals begin at 6e-5, which trained weights hold and CPUs convert at full speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.tensors import Sparse
from onnxopt.rewrite import Rule, edit_id
from onnxopt_passes.clean import links

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

INITIALIZERS = 4
"""From this IR version on, an initializer need not be an input."""

SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
"""Ops that multiply their weights with something and sum."""

LAYOUTS = {"float32": (np.uint32, 23), "float64": (np.uint64, 52), "bfloat16": (np.uint16, 7)}
"""By type: the integer of its width, and the bits of its mantissa."""

CHUNK = 2**20
"""Elements that are looked at at once."""


def lift(model: Model, ctx: Context) -> int:
    """Turn Constant nodes into constants."""
    if model.header.ir_version < INITIALIZERS:
        return 0
    made = 0
    for path, graph in ir.nested(model.graph):
        before = made
        for node in graph.nodes:
            values = stored(node)
            if values is None or match.fetched(node.outputs[0]):
                continue
            if ctx.allow(edit_id("lift", path, node)):
                out = node.outputs[0]
                links.redirect(out, ir.Constant(out.name, values))
                match.remove(node)
                made += 1
        if made > before:
            links.purge(graph)
    return made


def stored(node: gs.Node) -> np.ndarray | LazyValues | None:
    """Return what a Constant node holds; None for other nodes, strings and sparse tensors."""
    if not match.is_op(node, "Constant") or len(node.outputs) != 1:
        return None
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, gs.Constant):
            held: Any = value._values
            plain = value.dtype is not None and value.dtype != object
            return held if plain and not isinstance(held, Sparse) else None
        if name in match.VALUE_ATTRIBUTES and isinstance(value, int | float | list):
            return np.asarray(value, match.VALUE_ATTRIBUTES[name])
    return None


def scalar_range(graph: gs.Graph, node: gs.Node) -> bool:
    """Give a Range scalars where it reads constants of one element and one axis.

    onnxruntime runs such a Range, but refuses to load it once all three are initializers: what
    folding and decided branches make of models that got away with it.
    """
    values = match.constants(node.inputs)
    if values is None or all(v.ndim == 0 for v in values) or any(v.size != 1 for v in values):
        return False
    name = node.outputs[0].name
    node.inputs = [
        ir.Constant(f"{name}.{part}", v.reshape(()))
        for part, v in zip(("start", "limit", "delta"), values, strict=True)
    ]
    return True


def flush(model: Model, ctx: Context) -> int:
    """Set the subnormal values of weights to zero."""
    made = 0
    for path, root in links.roots(model):
        for where, constant in links.constants(root, path):
            readers = constant.outputs
            if not readers or match.fetched(constant):
                continue
            if not all(match.is_op(n, *SUMS) for n in readers):
                continue
            flushed = _flushed(constant)
            if flushed is not None and ctx.allow(f"denormal@{where}{constant.name}"):
                constant.values = flushed
                made += 1
    return made


RULES: tuple[Rule, ...] = (Rule("scalar_range", ("Range",), scalar_range),)
"""What constants need that are new to where they are read."""


def _flushed(constant: gs.Constant) -> np.ndarray | None:
    """Return the values with subnormal ones set to zero, signs kept; None if there are none.

    Whole arrays are only copied where there is something to write.
    """
    held = constant._values
    if str(held.dtype) not in LAYOUTS or isinstance(held, Sparse):
        return None
    values = held.load() if isinstance(held, LazyValues) else held
    kind, mantissa = LAYOUTS[str(held.dtype)]
    magnitude = kind(2 ** (8 * values.itemsize - 1) - 1)
    bits = np.ascontiguousarray(values).reshape(-1).view(kind)
    flushed: np.ndarray | None = None
    for start in range(0, bits.size, CHUNK):
        size = bits[start : start + CHUNK] & magnitude
        tiny = (size != 0) & (size < kind(1 << mantissa))
        if tiny.any():
            flushed = bits.copy() if flushed is None else flushed
            flushed[start : start + CHUNK][tiny] &= ~magnitude
    return None if flushed is None else flushed.view(values.dtype).reshape(values.shape)

"""Cast(Cast(x, A), B) -> Cast(x, B), where A holds every value of x's type.

Then the outer cast sees the same values without the inner one. That settles it for floats (each
rounds once, to nearest) and for bool; an integer B may also wrap around, which is the same from
either type only between integers. A float that is out of an integer's range is nobody's promise:
left alone, as are strings and all types of 8 bits or fewer that are not plain integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model.interface import numpy_dtype
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
"""Bits of the significand: integers of no more bits are exact."""

WIDER = {
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
    "float32": ("float64",),
    "float64": (),
}
"""Floats that hold every value of another one."""

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

PLAIN = frozenset({*DIGITS, *INTEGERS, "bool"})
"""The types that chains are followed through."""


def holds(wide: str, narrow: str) -> bool:
    """Whether one type has every value of the other; both are named as numpy names them."""
    if wide == narrow:
        return True
    if narrow == "bool":
        return wide in DIGITS or wide in INTEGERS
    if narrow in DIGITS:
        return wide in WIDER[narrow]
    if narrow not in INTEGERS:
        return False
    low, high = int(np.iinfo(narrow).min), int(np.iinfo(narrow).max)
    if wide in DIGITS:
        return high.bit_length() <= DIGITS[wide]
    limits = np.iinfo(wide) if wide in INTEGERS else None
    return limits is not None and int(limits.min) <= low and high <= int(limits.max)


def skip_cast(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a Cast read what the Cast before it reads."""
    inner = match.producer(node.inputs[0])
    if inner is None or not match.is_op(inner, "Cast"):
        return False
    source = inner.inputs[0]
    start, middle, end = str(shapes.dtype(source)), _target(inner), _target(node)
    if not {start, middle, end} <= PLAIN or not holds(middle, start):
        return False
    if end in INTEGERS and (start in DIGITS or (middle in DIGITS and not holds(end, start))):
        return False

    node.inputs = [source]
    return True


def _target(node: gs.Node) -> str:
    """Return the type that a Cast makes, as numpy names it."""
    target = axes.integer(node, "to")
    return "" if target is None else str(numpy_dtype(target))


RULES: tuple[Rule, ...] = (Rule("skip_cast", ("Cast",), skip_cast),)
"""In the order in which they are tried."""

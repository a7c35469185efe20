"""The arithmetic of shapes, and tensors made from shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from fuzz.layout import ANY, unsqueeze, with_ints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.scope import Scope, Value


def _element(s: Scope, x: Value, axis: int) -> Value | None:
    """Compute one dimension of a tensor, as a tensor of one element, in one of the usual ways."""
    way = s.integer(0, 3)
    if way == 0 and s.opset >= 15:
        return s.one("Shape", x, start=axis, end=None if axis + 1 == x.rank else axis + 1)
    shape = s.one("Shape", x)
    if shape is None:
        return None
    if way == 1:
        made = with_ints(s, "Slice", shape, 10, starts=[axis], ends=[axis + 1], axes=[0])
        return made[0] if made else None
    if way == 2:
        return s.one("Gather", shape, s.ints(axis), axis=0)
    return unsqueeze(s, s.one("Gather", shape, s.const(np.int64(axis)), axis=0), 0)


def reshape_computed(s: Scope) -> None:
    """A shape put together from dimensions of tensors and constants."""
    x = s.pick(ANY, 1)
    if x is None:
        return
    parts: list[Value | None] = []
    axis = 0
    while axis < x.rank:
        size = x.shape[axis]
        if axis + 1 < x.rank and s.flip(25):
            a, b = _element(s, x, axis), _element(s, x, axis + 1)
            parts.append(a and b and s.one("Mul", a, b))
            axis += 1
        elif size is not None and s.flip(30):
            parts.append(s.ints(size))
        else:
            parts.append(_element(s, x, axis))
        axis += 1
    if s.flip(40):
        parts[s.integer(0, len(parts) - 1)] = s.ints(-1)
    if s.flip(20):
        parts.append(s.ints(1))
    if all(p is not None for p in parts):
        target = s.one("Concat", *parts, axis=0)
        if target is not None:
            s.one("Reshape", x, target)


def shapes_of(s: Scope) -> None:
    """Tensors made from shapes: ConstantOfShape, Range, Size."""
    x = s.pick(ANY, 1)
    if x is None:
        return
    way = s.integer(0, 3)
    if way == 0:
        fill = s.choose([np.float32([1.5]), np.int64([2]), np.float32([0]), np.bool_([True])])
        shape = s.one("Shape", x) if s.flip() else s.ints(*(d or 1 for d in x.shape))
        if shape is not None:
            s.one(
                "ConstantOfShape",
                shape,
                value=numpy_helper.from_array(fill) if s.flip(80) else None,
            )
    elif way == 1 and s.opset >= 11:
        shape = s.one("Shape", x)
        stop = shape and s.one("Gather", shape, s.const(np.int64(0)), axis=0)
        if stop is None or s.flip(30):
            stop = s.const(np.int64(3))
        s.one("Range", s.const(np.int64(0)), stop, s.const(np.int64(s.choose([1, 2]))))
    elif way == 2:
        s.one("Size", x)
    else:
        s.one("Shape", x)


RECIPES: Sequence[Callable[[Scope], None]] = (reshape_computed, shapes_of)

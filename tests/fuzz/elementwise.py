"""What computes element by element, constants broadcast against tensors included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fuzz.layout import ANY
from fuzz.run import code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.scope import Scope, Value

DTYPES = (np.float32, np.float16, np.float64, np.int32, np.int64, np.bool_, np.uint8)
DISCONTINUOUS = 1e-2
"""How far a rounded value must be from where the result jumps."""


def unary(s: Scope) -> None:
    ops = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Erf", "LeakyRelu", "Exp"]
    if s.opset >= 14:
        ops.append("HardSwish")
    s.one(s.choose(ops), s.pick())


def moved(s: Scope) -> None:
    """What makes no new values, of any type."""
    x = s.pick(ANY)
    if x is not None and x.dtype.kind == "b":
        s.one(s.choose(["Not", "Identity"]), x)
    else:
        s.one(s.choose(["Identity", "Identity", "Neg", "Abs"]), x)


def softmax(s: Scope) -> None:
    x = s.pick("f", 1)
    if x is not None:
        s.one(s.choose(["Softmax", "LogSoftmax"]), x, axis=s.choose([None, x.rank - 1, 1, 0]))


def jumps(x: Value, scale: float = 1.0, offset: float = 0.0) -> bool:
    """Whether other rounding of a tensor could change a whole number computed from it."""
    if not x.rough:
        return False
    scaled = [a.astype(np.float64) / scale + offset for a in x.arrays]
    return any((np.abs(a - np.round(a)) < DISCONTINUOUS).any() for a in scaled)


def cast(s: Scope) -> None:
    """One or two Casts: to the same type, wider, narrower, and back."""
    x = s.pick(ANY)
    if x is None:
        return
    to = s.choose(DTYPES)
    if x.dtype.kind == "f" and np.dtype(to).kind in "iub" and jumps(x):
        return
    if np.dtype(to).kind == "u" and any((a < 0).any() for a in x.arrays):
        return
    y = s.one("Cast", x, to=code(to))
    if y is not None and s.flip(50) and not jumps(y):
        to = x.dtype if s.flip(60) else np.dtype(s.choose(DTYPES))
        if to.kind != "u":
            s.one("Cast", y, to=code(to))


def clip(s: Scope) -> None:
    x = s.pick("f")
    if x is None:
        return
    for _ in range(s.integer(1, 2)):
        low, high = s.choose([(0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 2.0), (None, None),
                              (2.0, 1.0)])  # fmt: skip
        if s.opset < 11:
            y = s.one("Clip", x, min=low, max=high)
        else:
            bounds = [None if b is None else s.const(x.dtype.type(b)) for b in (low, high)]
            while bounds and bounds[-1] is None:
                bounds.pop()
            y = s.one("Clip", x, *bounds)
        x = y or x


def dropout(s: Scope) -> None:
    x = s.pick()
    if x is None:
        return
    count = s.choose([1, 1, 2])
    if s.opset < 12:
        s.node("Dropout", [x], count, ratio=s.choose([None, 0.3]))
        return
    ratio = s.const(np.float32(0.3)) if s.flip() else None
    mode = s.const(np.bool_(False)) if s.flip() else None
    inputs = [ratio, mode] if mode else [ratio] if ratio else []
    s.node("Dropout", [x, *inputs], count)


def operand(s: Scope, x: Value) -> Value:
    """A constant that broadcasts with a tensor; often a neutral one."""
    kinds = [[], [1], [1] * (x.rank + s.choose([0, 0, 0, 1]))]
    if x.rank and x.shape[-1] is not None:
        kinds.append([x.shape[-1]])
    if x.rank > 1 and x.shape[1] is not None:
        kinds.append([x.shape[1], *[1] * (x.rank - 2)])
    if x.rank:
        kinds.append([1 if d is None else d for d in x.shape])
    shape = s.choose(kinds)
    neutral = s.choose([None, None, 0, 1])
    if neutral is None:
        return s.const(s.weight(shape, x.dtype))
    return s.const(np.full(shape, neutral, x.dtype))


def binary(s: Scope) -> None:
    x = s.pick("fi")
    if x is None:
        return
    op = s.choose(["Add", "Mul", "Sub", "Div", "Max", "Min", "Pow"])
    if op in ("Max", "Min", "Pow") and (s.opset < 13 or x.dtype.kind == "i"):
        op = "Add"
    other = s.pick("fi", 0, lambda v: v.dtype == x.dtype) if s.flip(35) else None
    other = other or operand(s, x)
    pair = [other, x] if s.flip(30) else [x, other]
    if op in ("Div", "Pow") and (not other.known or pair[0] is other or x.dtype.kind == "i"):
        op = "Mul"
    y = s.one(op, *pair)
    if y is not None and s.flip(25):
        s.one(op, y, operand(s, y))


def compare(s: Scope) -> None:
    x = s.pick("fi", 0, lambda v: not v.rough)
    if x is None or s.opset < 11:
        return
    y = s.one(s.choose(["Less", "Equal", "Greater"]), x, operand(s, x))
    if s.flip(30) and y is not None:
        s.one(s.choose(["And", "Or"]), y, s.const(np.bool_(s.choose([True, False]))))


def where(s: Scope) -> None:
    x = s.pick(ANY)
    if x is None:
        return
    shape = s.choose([[], [1], [d for d in x.shape[-1:] if d is not None]])
    condition = s.pick("b") if s.flip(40) else None
    if condition is None:
        array = s.weight(shape, bool) if s.flip(30) else np.full(shape, s.choose([True, False]))
        condition = s.const(array)
    other = s.pick(ANY, 0, lambda v: v.dtype == x.dtype)
    if x.dtype.kind != "b" and s.flip():
        other = operand(s, x)
    s.node("Where", [condition, x, other] if s.flip() else [condition, other, x])


def composed(s: Scope) -> None:
    """Activations that are written out."""
    x = s.pick("f")
    if x is None:
        return
    kind = x.dtype.type
    way = s.integer(0, 4)
    if way == 0:
        gate = s.one("Sigmoid", x)
        s.node("Mul", [x, gate] if s.flip() else [gate, x])
    elif way == 1:
        shifted = s.one("Add", x, s.const(kind(3)))
        bounds = [s.const(kind(0)), s.const(kind(6))]
        gate = shifted and s.one("Clip", shifted, *bounds) if s.opset >= 11 else shifted
        y = gate and s.one("Mul", x, gate)
        if y is not None:
            s.one("Div", y, s.const(kind(6)))
    elif way == 2 and s.opset >= 12:
        y = s.one("Max", x, s.const(kind(s.choose([0, -1]))))
        if y is not None:
            s.one("Min", y, s.const(kind(s.choose([6, 1]))))
    elif way == 3:
        s.node("Mul", [x, x]) if s.flip() else s.one("Pow", x, s.const(kind(s.choose([1, 2]))))
    elif way == 4:
        tanh = s.one("Softplus", x)
        gate = tanh and s.one("Tanh", tanh)
        if gate is not None:
            s.one("Mul", x, gate)


def chain(s: Scope) -> None:
    """Arithmetic with several numbers in a row."""
    y = s.pick("f")
    for _ in range(s.integer(2, 3)):
        if y is not None:
            op = s.choose(["Mul", "Add", "Sub", "Div"])
            y = s.one(op, y, s.const(y.dtype.type(s.choose([2, 0.5, 4]))))


RECIPES: Sequence[Callable[[Scope], Any]] = (
    unary, moved, softmax, cast, clip, dropout, binary, binary, binary, compare, where, composed,
    composed,
)  # fmt: skip

"""Reductions, layers with weights and what follows them, quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fuzz.elementwise import jumps, operand
from fuzz.layout import unsqueeze, with_ints, with_pads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.scope import Scope, Value


def reduce(s: Scope) -> None:
    x = s.pick("f", 1)
    if x is None:
        return
    op = s.choose(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
    since = 13 if op == "ReduceSum" else 18
    axes = sorted({s.integer(0, x.rank - 1) for _ in range(s.integer(1, 2))})
    if s.flip(20):
        axes = [a - x.rank for a in axes]
    rest: dict[str, Any] = {"keepdims": s.choose([None, 0, 1])}
    if s.opset >= since and s.flip(20):
        rest["noop_with_empty_axes"] = s.choose([0, 1])
        axes = s.choose([[], None])
    made = with_ints(s, op, x, since, 1, rest, axes=axes or (None if s.opset < since else axes))
    if made and s.flip(20) and rest["keepdims"] != 0 and axes:
        with_ints(s, "Squeeze", made[0], 13, axes=axes[:1])


def argmax(s: Scope) -> None:
    x = s.pick("f", 1, lambda v: not v.rough)
    if x is not None:
        s.one("ArgMax", x, axis=s.integer(0, x.rank - 1), keepdims=s.choose([None, 0]))


def weights(s: Scope, shape: Sequence[int], dtype: Any) -> Value | None:
    """The weights of a layer; sometimes quantized ones."""
    if s.opset >= 13 and dtype == np.float32 and s.flip(15):
        whole = np.random.default_rng(s.integer(0, 3)).integers(-9, 10, shape).astype(np.int8)
        scale = s.const(np.float32(0.125))
        zero = [s.const(np.int8(0))] if s.flip() else []
        return s.one("DequantizeLinear", s.const(whole), scale, *zero)
    return s.const(s.weight(shape, dtype))


def matmul(s: Scope) -> None:
    x = s.pick("f", 1)
    if x is None:
        return
    other = s.pick("f", 2, lambda v: v.dtype == x.dtype) if s.flip(20) else None
    size = x.shape[-1]
    if other is None:
        if size is None:
            return
        lead = [1] if s.flip(10) else []
        other = weights(s, [*lead, size, s.integer(1, 3)], x.dtype)
    y = s.one("MatMul", x, other)
    if y is not None and s.flip(50):
        s.one(s.choose(["Add", "Mul"]), y, operand(s, y))


def gemm(s: Scope) -> None:
    x = s.pick("f", 2, lambda v: v.rank == 2 and v.shape[1] is not None)
    if x is None:
        return
    a, b = s.choose([None, 0]), s.choose([None, 0, 1])
    n = s.integer(1, 3)
    shape = [n, x.shape[1]] if b else [x.shape[1], n]
    inputs = [weights(s, shape, x.dtype)]
    if s.flip(70) or s.opset < 11:
        inputs.append(s.const(s.weight(s.choose([[n], [1, n], [1], []]), x.dtype)))
    if any(v is None for v in inputs):
        return
    alpha, beta = s.choose([None, None, 0.5, 2.0]), s.choose([None, None, 0.5, 0.0])
    y = s.one("Gemm", x, *inputs, transA=a, transB=b, alpha=alpha, beta=beta)
    if y is not None and s.flip(50):
        after(s, y)


def conv(s: Scope) -> None:
    """Conv or ConvTranspose, and what is often after it."""
    x = s.pick("f", 3, lambda v: v.rank in (3, 4) and (v.shape[1] or 0) > 0)
    x = x or unsqueeze(s, s.pick("f", 2, lambda v: v.rank in (2, 3) and bool(v.shape[0])), 0)
    if x is None:
        return
    channels, spatial = int(x.shape[1] or 1), x.rank - 2
    if s.flip(25):
        pads = [0, 0, *(s.choose([0, 1, 2]) for _ in range(spatial))]
        x = with_pads(s, x, pads + pads) or x
    groups = s.choose([g for g in (1, channels, 2) if channels % g == 0])
    kernel = [s.choose([1, 2, 3]) for _ in range(spatial)]
    attrs: dict[str, Any] = {"group": groups if groups > 1 or s.flip(20) else None}
    if s.flip(25):
        attrs["strides"] = [s.choose([1, 2])] * spatial
    if s.flip(15):
        attrs["dilations"] = [s.choose([1, 2])] * spatial
    if s.flip(60):
        attrs["pads"] = [s.choose([0, 1])] * (2 * spatial)
    elif s.flip(30):
        attrs["auto_pad"] = s.choose(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    if s.flip(30):
        attrs["kernel_shape"] = kernel
    transposed = s.flip(25)
    out = groups * s.integer(1, 2)
    shape = [channels, out // groups] if transposed else [out, channels // groups]
    w = weights(s, [*shape, *kernel], x.dtype)
    bias = [s.const(s.weight([out], x.dtype))] if s.flip(40) else []
    y = w and s.one("ConvTranspose" if transposed else "Conv", x, w, *bias, **attrs)
    if y is not None:
        for _ in range(s.integer(0, 2)):
            y = after(s, y) or y


def after(s: Scope, y: Value) -> Value | None:
    """BatchNormalization, arithmetic per channel or an activation."""
    way = s.integer(0, 3)
    if way == 0:
        return batch_norm(s, y)
    if way == 1:
        return s.one(s.choose(["Relu", "Sigmoid", "Identity"]), y)
    pair = [y, operand(s, y)]
    op = s.choose(["Mul", "Add", "Sub"])
    return s.one(op, *(reversed(pair) if s.flip(30) else pair))


def batch_norm(s: Scope, x: Value | None = None) -> Value | None:
    x = x or s.pick("f", 2)
    if x is None or x.rank < 2 or not x.shape[1]:
        return None
    size = [x.shape[1]]
    scale, bias, mean = (s.const(s.weight(size, x.dtype)) for _ in range(3))
    var = s.const(np.abs(s.weight(size, x.dtype)) + x.dtype.type(0.5))
    return s.one("BatchNormalization", x, scale, bias, mean, var, epsilon=s.choose([None, 1e-3]))


def pool(s: Scope) -> None:
    x = s.pick("f", 3, lambda v: v.rank in (3, 4))
    if x is None:
        return
    op = s.choose(["MaxPool", "AveragePool", "GlobalAveragePool"])
    if op == "GlobalAveragePool":
        s.one(op, x)
        return
    kernel = [s.choose([1, 1, 2]) for _ in range(x.rank - 2)]
    s.one(op, x, kernel_shape=kernel, ceil_mode=s.choose([None, 1]) if s.opset >= 10 else None)


def quantize(s: Scope) -> None:
    """A pair, sometimes two of them in a row."""
    if s.opset < 10:
        return
    scale = s.choose([0.125, 0.5, 0.1])
    x = s.pick("f", 0, lambda v: v.dtype == np.float32 and not jumps(v, scale, 0.5))
    if x is None:
        return
    zero = s.choose([None, np.uint8(3), np.int8(0), np.uint8(128)])
    for _ in range(s.integer(1, 2)):
        rest = [s.const(np.float32(scale)), *([] if zero is None else [s.const(zero)])]
        if s.flip(20):
            rest2 = [s.const(np.float32(scale)), *([] if zero is None else [s.const(zero)])]
        else:
            rest2 = rest
        q = x and s.one("QuantizeLinear", x, *rest)
        x = q and s.one("DequantizeLinear", q, *rest2)


RECIPES: Sequence[Callable[[Scope], Any]] = (
    reduce, argmax, matmul, gemm, conv, conv, conv, conv, batch_norm, pool, quantize,
)  # fmt: skip

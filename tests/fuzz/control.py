"""Bodies and functions: If, Loop, and calls of model-local functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from fuzz import elementwise, layers, layout, shape_math
from fuzz.run import code, make_node
from fuzz.scope import LOCAL, Scope, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEEPEST = 2
"""Bodies in bodies."""

PLAIN = (
    *elementwise.RECIPES,
    *layers.RECIPES,
    *layout.RECIPES,
    *shape_math.RECIPES,
)
"""What makes nodes without bodies."""


def repeat(s: Scope) -> None:
    """The same node once more."""
    nodes = [n for n in s.nodes if n.op_type not in ("If", "Loop")]
    if nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(s.choose(nodes))
        constant = next((v for v in s.values if v.name == copy.output[0]), None)
        if copy.op_type == "Constant" and constant is not None:
            s.const(constant.arrays[0])
            return
        copy.ClearField("metadata_props")
        copy.ClearField("doc_string")
        copy.output[:] = [s.fresh() for _ in copy.output]
        s.add(copy)


def constant_again(s: Scope) -> None:
    """An equal constant, and a node that reads it."""
    found = [v for v in s.visible() if v.known and v.dtype.kind == "f"]
    if found:
        old = s.choose(found)
        new = s.const(old.arrays[0])
        x = s.pick("f", 0, lambda v: v.dtype == new.dtype)
        if x is not None:
            s.node("Add", [x, new])


def condition(s: Scope) -> Value:
    """A scalar boolean: constant in one of several ways, or fed."""
    way = s.integer(0, 3)
    fed = s.pick("b", 0, lambda v: all(a.size == 1 for a in v.arrays))
    if way < 2 and fed is not None:
        return fed
    x = s.pick("fi")
    if way == 2 and x is not None and s.opset >= 11:
        shape = s.one("Shape", x)
        rank = shape and s.one("Size", shape)
        made = rank and s.one("Equal", rank, s.const(np.int64(s.integer(0, 4))))
        if made is not None:
            return made
    return s.const(np.bool_(s.choose([True, False])))


def body(s: Scope, steps: int) -> None:
    for _ in range(steps):
        s.choose(RECIPES if s.depth < DEEPEST and s.flip(15) else PLAIN)(s)


def result(s: Scope, dtype: np.dtype, like: Value | None = None) -> Value | None:
    """Choose what a body returns: something of its own; or what it captures, through Identity."""

    def fits(v: Value) -> bool:
        return v.dtype == dtype and (like is None or v.dims == like.dims)

    own = [v for v in reversed(s.values) if fits(v)]
    if own and s.flip(80):
        return s.choose(own)
    other = s.pick(layout.ANY, 0, fits)
    if other is None:
        return s.const(np.zeros([1], dtype)) if like is None else None
    return s.one("Identity", other)


def branch(s: Scope) -> None:
    """An If; types of its outputs agree, shapes need not."""
    test = condition(s)
    dtypes = [v.dtype for v in (s.pick(layout.ANY) for _ in range(s.integer(1, 2))) if v]
    attrs: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        inner = s.child()
        body(inner, s.integer(0, 3))
        found = [result(inner, dtype) for dtype in dtypes]
        if not found or any(v is None for v in found):
            return
        unique = []
        for v in found:
            unique.append(v if v not in unique else inner.one("Identity", v))
        if any(v is None for v in unique):
            return
        attrs[name] = inner.graph(name, [], unique)
    s.node("If", [test], len(dtypes), **attrs)


def loop(s: Scope) -> None:
    """A Loop with one carried tensor, and sometimes one that is stacked."""
    if s.opset < 11:
        return
    start = s.pick("fi")
    if start is None:
        return
    fed = s.pick("i", 0, lambda v: v.rank == 0 and v.dtype == np.int64)
    trips = fed if fed is not None and s.flip(40) else s.const(np.int64(s.choose([0, 1, 3])))
    go = s.choose([None, True, True])
    inner = s.child()
    turn, again, carried = (inner.fresh() for _ in range(3))
    inner.values += [
        Value(turn, (np.asarray(0, np.int64),) * len(start.arrays)),
        Value(again, (np.asarray(True),) * len(start.arrays)),
        Value(carried, start.arrays, rough=True),
    ]
    inputs = [
        helper.make_tensor_value_info(turn, code(np.dtype(np.int64)), []),
        helper.make_tensor_value_info(again, code(np.dtype(bool)), []),
        helper.make_tensor_value_info(carried, code(start.dtype), None),
    ]
    body(inner, s.integer(0, 3))
    keep = inner.one("Identity", inner.values[1])
    out = result(inner, start.dtype, start)
    if out is None or keep is None or out.name == carried:
        return
    found = [keep, out]
    if s.flip(40):
        stacked = inner.one("Identity", inner.pick(layout.ANY))
        found += [] if stacked is None else [stacked]
    graph = inner.graph("body", inputs, found)
    test = None if go is None else s.const(np.bool_(go))
    s.node("Loop", [trips, test, start], len(found) - 1, body=graph)


def call(s: Scope) -> None:
    """Call a function: a new one, or one that is called elsewhere."""
    book = s.book
    if book.opset < 18 or book.ir < 8 or s.function:
        return
    x = s.pick("f")
    if x is None:
        return
    if not book.functions or s.flip(40):
        _define(s, x)
    if book.functions:
        function = s.choose(book.functions)
        attrs = {name: s.choose([0.25, 0.5]) for name in function.attribute}
        for _ in range(s.integer(1, 2)):
            y = s.pick("f", 0, lambda v: v.dtype == x.dtype)
            s.node(function.name, [y] * len(function.input), 1, LOCAL, **attrs)


def _define(s: Scope, x: Value) -> None:
    inner = Scope(s.book, None, function=True)
    inner.depth = DEEPEST
    inner.values = [Value(name, x.arrays, rough=True) for name in ("a", "b")[: s.integer(1, 2)]]
    formal = [v.name for v in inner.values]
    body(inner, s.integer(1, 4))
    made = [v for n in inner.nodes for v in inner.values if v.name in n.output and not v.known]
    if not made:
        return
    out = made[-1]
    attributes = []
    if s.flip(30):
        slope = make_node("LeakyRelu", [out.name], ["slope"])
        slope.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
        if out.dtype.kind == "f":
            inner.nodes.append(slope)
            attributes = ["alpha"]
            out = Value("slope", out.arrays)
    s.book.functions.append(
        helper.make_function(
            LOCAL,
            f"f{len(s.book.functions)}",
            formal,
            [out.name],
            inner.nodes,
            [helper.make_opsetid("", s.opset)],
            attributes,
        )
    )


RECIPES: Sequence[Callable[[Scope], None]] = (
    repeat, repeat, constant_again, branch, branch, loop, call, call,
)  # fmt: skip

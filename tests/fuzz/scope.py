"""A graph in the making, of which the value of every tensor is known.

A graph is drawn node by node. Every node is run by onnxruntime on the values of its inputs, once
for each of the sets of inputs (`run.RUNS`; symbolic dimensions differ between them), before it is
added: what onnxruntime refuses, and what overflows, never becomes part of the graph. A dimension
is the tuple of its sizes in all runs; it is static as far as the graph can know if they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import onnx
from onnx import helper, numpy_helper

from fuzz.run import RUNS, code, evaluate, make_node, reads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOCAL = "local"
EXACT = frozenset({
    *("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Slice"),
    *("Split", "Gather", "Expand", "Tile", "Pad", "Relu", "Neg", "Abs", "Clip", "Max", "Min"),
    *("Where", "Shape", "Size", "Dropout", "MaxPool", "ReduceMax", "ReduceMin", "Constant"),
    "ConstantOfShape",
})  # fmt: skip
"""Ops that do not round."""

SUMS = frozenset({
    *("Add", "Sub", "MatMul", "Gemm", "Conv", "ConvTranspose", "ReduceSum", "ReduceMean"),
    "BatchNormalization",
})  # fmt: skip
"""Ops whose terms may cancel, which leaves nothing but the rounding of what was before."""


@dataclass(eq=False)
class Value:
    """A tensor.

    Attributes:
        name: Its name.
        arrays: What it holds in each of the runs.
        rough: Whether it was rounded on the way, so that other rounding may change it.
        known: Whether it is a constant.
    """

    name: str
    arrays: tuple[np.ndarray, ...]
    rough: bool = False
    known: bool = False

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    @property
    def dims(self) -> list[tuple[int, ...]]:
        return list(zip(*(a.shape for a in self.arrays), strict=True))

    @property
    def shape(self) -> list[int | None]:
        """Static sizes, None where they differ from run to run."""
        return [d[0] if len(set(d)) == 1 else None for d in self.dims]

    @property
    def static(self) -> bool:
        return None not in self.shape

    def info(self, symbols: Sequence[str | int | None] | None = None) -> onnx.ValueInfoProto:
        """Describe it; dimensions that are not static get names of their own."""
        shape = symbols or [
            f"{self.name}_{i}" if d is None else d for i, d in enumerate(self.shape)
        ]
        return helper.make_tensor_value_info(self.name, code(self.dtype), shape)


def cancels(terms: Sequence[Value], total: Sequence[np.ndarray]) -> bool:
    """Whether a sum is much smaller than a rounded term of it, in any run."""
    return any(
        np.abs(a).max(initial=0) > 50 * np.abs(b).max(initial=0)
        for term in terms
        if term.rough and term.dtype.kind == "f"
        for a, b in zip(term.arrays, total, strict=True)
        if b.size
    )


@dataclass
class Book:
    """What all graphs of a model share."""

    draw: Callable[[Any], Any]
    opset: int
    ir: int
    functions: list[onnx.FunctionProto] = field(default_factory=list)

    @property
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        local = [helper.make_opsetid(LOCAL, 1)] if self.functions else []
        return [helper.make_opsetid("", self.opset), *local]


class Scope:
    """A graph, a body or a function in the making.

    Args:
        book: What all graphs of the model share.
        outer: The graph around it, whose tensors it may capture.
        function: Whether it is a function, which has no initializers.
    """

    def __init__(self, book: Book, outer: Scope | None = None, function: bool = False) -> None:
        self.book = book
        self.opset = book.opset
        self.outer = outer
        self.function = function
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: list[Value] = []
        self.count: int = outer.count if outer else 0
        self.depth: int = outer.depth + 1 if outer else 0

    def integer(self, low: int, high: int) -> int:
        return self.book.draw(st.integers(low, high))

    def choose(self, options: Sequence[Any]) -> Any:
        return self.book.draw(st.sampled_from(options))

    def flip(self, percent: int = 50) -> bool:
        return self.integer(0, 99) >= 100 - percent

    def visible(self) -> list[Value]:
        return [*(self.outer.visible() if self.outer else ()), *self.values]

    def pick(
        self,
        kinds: str = "f",
        rank: int = 0,
        where: Callable[[Value], bool] = lambda v: True,
    ) -> Value | None:
        """Choose a tensor that is not constant, late ones first; None if there is none."""
        found = [
            v
            for v in reversed(self.visible())
            if v.dtype.kind in kinds and v.rank >= rank and not v.known and where(v)
        ]
        if len(found) > 2 and self.flip(60):
            found = found[:2]
        return self.choose(found) if found else None

    def fresh(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def weight(self, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """Draw values; halves and quarters, so that most arithmetic is exact."""
        rng = np.random.default_rng(self.integer(0, 7))
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        if dtype.kind in "iu":
            return rng.integers(0 if dtype.kind == "u" else -3, 4, shape).astype(dtype)
        return (rng.integers(-6, 7, shape) / 4).astype(dtype)

    def const(self, array: Any, dtype: Any = None) -> Value:
        """Add a constant, as an initializer or as a Constant node in one of its forms."""
        array = np.asarray(array, dtype)
        value = Value(self.fresh(), (array,) * RUNS, known=True)
        nodes_only = self.function or (self.outer is not None and self.book.ir < 4)
        if nodes_only or self.flip(30):
            attrs = self._form(array)
            self.nodes.append(make_node("Constant", [], [value.name], **attrs))
        else:
            self.initializers.append(numpy_helper.from_array(array, value.name))
        self.values.append(value)
        return value

    def _form(self, array: np.ndarray) -> dict[str, Any]:
        short = {"float32": "value_float", "int64": "value_int"}.get(array.dtype.name)
        if self.opset >= 12 and short and array.ndim < 2 and array.size and self.flip():
            return {short: array.item()} if array.ndim == 0 else {f"{short}s": array.tolist()}
        return {"value": numpy_helper.from_array(array)}

    def ints(self, *values: int) -> Value:
        return self.const(np.asarray(values, np.int64))

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: int = 1,
        domain: str = "",
        **attrs: Any,
    ) -> list[Value] | None:
        """Add a node and return its outputs; None if onnxruntime refuses it."""
        names = [self.fresh() for _ in range(outputs)]
        read = [v.name if v else "" for v in inputs]
        return self.add(make_node(op, read, names, domain, **attrs))

    def one(self, op: str, *inputs: Value | None, **attrs: Any) -> Value | None:
        """Add a node of one output."""
        if any(v is None for v in inputs[:1]):
            return None
        made = self.node(op, inputs, **attrs)
        return made[0] if made else None

    def add(self, proto: onnx.NodeProto) -> list[Value] | None:
        found = {v.name: v for v in self.visible()}
        read = [found[name] for name in sorted(reads(proto)) if name in found]
        arrays = evaluate(proto, read, self.book.opsets, self.book.functions)
        if arrays is None or (proto.op_type in SUMS and cancels(read, arrays[0])):
            return None
        rough = any(v.rough for v in read) or (
            proto.op_type not in EXACT and any(a[0].dtype.kind == "f" for a in arrays)
        )
        made = [Value(n, a, rough) for n, a in zip(proto.output, arrays, strict=True)]
        if self.book.ir >= 10 and self.flip(5):
            proto.metadata_props.add(key="origin", value="fuzz")
        free = "" if any(n.name == "one" for n in self.nodes) else "one"
        proto.name = self.choose(["", free, f"n_{proto.output[0]}"])
        if not proto.name:
            proto.ClearField("name")
        if self.flip(5):
            proto.doc_string = "drawn"
        self.nodes.append(proto)
        self.values += made
        return made

    def child(self) -> Scope:
        """Open a body; names of siblings collide, those of the graph around do not."""
        return Scope(self.book, self)

    def graph(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[Value]
    ) -> onnx.GraphProto:
        """Close a body; the types of what it returns have no shapes, unless it was handed in."""
        if self.outer:
            self.outer.count = max(self.outer.count, self.count)
        given = {v.name: v for v in inputs}
        types = [
            given.get(v.name) or helper.make_tensor_value_info(v.name, code(v.dtype), None)
            for v in outputs
        ]
        return helper.make_graph(self.nodes, name, inputs, types, self.initializers)

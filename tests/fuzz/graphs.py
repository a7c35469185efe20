"""Random small models that are valid, with inputs they run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import onnx
from hypothesis import assume
from onnx import helper, numpy_helper

from fuzz import control
from fuzz.run import RUNS, load
from fuzz.scope import Book, Scope, Value

if TYPE_CHECKING:
    from collections.abc import Callable

OPSETS = (9, 11, 13, 17, 18, 21, 23)
SIZES = ((2, 1, 3), (3, 5, 1), (4, 2, 6), (1, 2, 3), (2, 0, 1))
"""What symbols are bound to, run by run."""

DIMS = (
    ("N", 4, 5), ("N", 2, 5, 5), (2, 3, 4), (1, 4, 4, 4), ("N", "S"), ("N", 4), (4,), (2, 4),
    ("N", "S", 4), ("S",), (), (), (1,), (2, 1, 3), ("N", 3, "S", "S"), ("N", 0, 3),
    ("N", 2, 6, 4), (1, 3, 5, 5), ("N", 4, "S"), (2, 4, 3),
)  # fmt: skip
"""Shapes of inputs."""


class Example:
    """A model and what to feed it in each of the runs."""

    def __init__(self, proto: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> None:
        self.proto = proto
        self.feeds = feeds

    def __repr__(self) -> str:
        feeds = [{k: v.shape for k, v in f.items()} for f in self.feeds]
        return f"{onnx.printer.to_text(self.proto)}\nfed: {feeds}"


@st.composite
def models(draw: Callable[[Any], Any]) -> Example:
    """Draw a model of a few nodes, and its inputs."""
    opset = draw(st.sampled_from(OPSETS))
    ir = draw(st.sampled_from([3, 4, 6] if opset == 9 else [7, 4, 8, 9, 10]))
    ir = max(ir, 8) if opset >= 18 and draw(st.booleans()) else ir
    s = Scope(Book(draw, opset, ir))
    symbols = {name: draw(st.sampled_from(SIZES)) for name in ("N", "S")}
    inputs = [_input(s, f"x{i}", symbols) for i in range(s.integer(1, 3))]
    default = _overridable(s)
    defaults = [] if default is None else [default]
    for _ in range(s.integer(2, 14)):
        s.choose((*control.PLAIN, *control.RECIPES))(s)
    outputs = _outputs(s, inputs)
    assume(outputs)
    proto = _model(s, inputs, defaults, outputs)
    feeds = [{v.name: v.arrays[i] for v, _ in inputs} for i in range(RUNS)]
    for i in range(1, RUNS):
        feeds[i].update({v.name: v.arrays[i] for v in defaults})
    example = Example(proto, feeds)
    assume(_runs(example))
    return example


def _input(
    s: Scope, name: str, symbols: dict[str, tuple[int, ...]]
) -> tuple[Value, onnx.ValueInfoProto]:
    dims = s.choose(DIMS)
    dtype = np.dtype(s.choose([np.float32] * 5 + [np.int64, np.bool_, np.float16, np.float64,
                                                 np.int32]))  # fmt: skip
    rng = np.random.default_rng(s.integer(0, 9))
    arrays = []
    for i in range(RUNS):
        shape = [symbols[d][i] if isinstance(d, str) else d for d in dims]
        if dtype.kind == "i":
            array = rng.integers(0, 3, shape)
        elif dtype.kind == "b":
            array = rng.random(shape) < 0.5
        else:
            array = rng.integers(-16, 17, shape) / 8
        arrays.append(np.asarray(array).astype(dtype))
    value = Value(name, tuple(arrays))
    s.values.append(value)
    shown = [None if isinstance(d, str) and s.flip(10) else d for d in dims]
    return value, helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shown)


def _overridable(s: Scope) -> Value | None:
    """A default that the first run takes and others replace."""
    if s.book.ir < 4 or not s.flip(15):
        return None
    default = np.asarray(s.weight(s.choose([[4], [1], []])))
    other = np.asarray(np.roll(default, 1) * 2)
    value = Value("w0", (default, *[other] * (RUNS - 1)))
    s.values.append(value)
    s.initializers.append(numpy_helper.from_array(default, value.name))
    return value


def _outputs(s: Scope, inputs: list[tuple[Value, onnx.ValueInfoProto]]) -> list[Value]:
    made = [
        v for v in reversed(s.values) if not v.known and any(v.name in n.output for n in s.nodes)
    ]
    if not made:
        return []
    found = [made[0]] if s.flip(70) else []
    found += [s.choose(made) for _ in range(s.integer(0 if found else 1, 3))]
    found = list(dict.fromkeys(found))
    if s.flip(15):
        again = s.one("Identity", s.choose([*found, *(v for v, _ in inputs)]))
        found += [] if again is None else [again]
    if s.flip(5):
        constant = s.one("Identity", s.const(s.weight([2])))
        found += [] if constant is None else [constant]
    return found


def _model(
    s: Scope,
    inputs: list[tuple[Value, onnx.ValueInfoProto]],
    defaults: list[Value],
    outputs: list[Value],
) -> onnx.ModelProto:
    book = s.book
    held = [v.info() for v in s.values if v in defaults]
    if book.ir < 4:
        held = [v.info() for v in s.values if any(v.name == t.name for t in s.initializers)]
    graph = helper.make_graph(
        s.nodes,
        "drawn",
        [*(info for _, info in inputs), *held],
        [v.info() for v in outputs],
        s.initializers,
    )
    if s.flip(30):
        taken = {v.name for v in (*graph.input, *graph.output)}
        graph.value_info.extend(v.info() for v in s.values if v.name not in taken and not v.known)
    model = helper.make_model(
        graph, ir_version=book.ir, opset_imports=book.opsets, functions=book.functions
    )
    if s.flip(20):
        model.doc_string = "drawn"
        model.metadata_props.add(key="author", value="nobody")
        model.graph.doc_string = "a graph"
    return model


def _runs(example: Example) -> bool:
    try:
        onnx.checker.check_model(example.proto, full_check=True)
        session = load(example.proto)
        for feed in example.feeds:
            session.run(None, feed)
    except Exception:  # noqa: BLE001  # neither library's exceptions have a common base
        return False
    return True

"""Sizes of computed shapes, which onnx's inference gives up on."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxopt import resolve, shapes
from onnxopt.model import Model
from onnxopt.testing import fill

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[B,L,6] x, float[1,1] e, float[M,1] u, float[B,M,6] v) => (float y)
   <int64[1] rest = {{-1}}, int64[1] two = {{2}}, int64 zero = {{0}}, int64 one = {{1}},
    float[1,9] table, float[1,1] single, float[1,5] five, int64[1] first = {{0}},
    int64[1] second = {{1}}, int64[3] repeats = {{1, 1, 2}}, int64[3] more = {{1, 2, 1}}>
{{
   b = Shape <start = 0, end = 1> (x)
   l = Shape <start = 1, end = 2> (x)
   n = Squeeze(l)
   {nodes}
   y = Cast <to = 1> (t)
}}
"""


@pytest.mark.parametrize(
    ("nodes", "dims"),
    [
        ("s = Concat <axis = 0> (b, l, rest, two) t = Reshape(x, s)", ("B", "L", 3, 2)),
        ("s = Concat <axis = 0> (rest, l, two) t = Reshape(x, s)", (None, "L", 2)),
        ("s = Concat <axis = 0> (b, l) t = Expand(e, s)", ("B", "L")),
        ("s = Concat <axis = 0> (b, l) t = Expand(u, s)", (None, "L")),
        ("s = Concat <axis = 0> (b, l) t = Expand(five, s)", ("B", 5)),
        ("t = Slice(table, first, l, second)", (1, "L cut at 9")),
        ("t = Slice(table, second, l, second)", (None, None)),
        ("t = Slice(single, first, l, second)", (None, None)),
        (
            "c = Slice(table, first, l, second) s = Concat <axis = 0> (b, l) t = Expand(c, s)",
            ("B", "L"),
        ),
        (
            "c = Slice(table, first, l, second) s = Concat <axis = 0> (l, b) t = Expand(c, s)",
            ("L", None),
        ),
        (
            "c = Slice(table, first, l, second) r = ReduceSum <keepdims = 0> (x, rest) "
            "t = Add(r, c)",
            ("B", "L"),
        ),
        ("r = ReduceSum <keepdims = 0> (x, rest) t = Mul(r, table)", ("B", 9)),
        ("t = Concat <axis = 1> (x, x)", ("B", "L + L", 6)),
        ("t = Concat <axis = 1> (v, x)", ("B", "L + M", 6)),
        ("t = Concat <axis = 2> (x, x)", ("B", "L", 12)),
        ("t = Tile(x, repeats)", ("B", "L", 12)),
        ("t = Tile(x, more)", ("B", None, 6)),
        ("t = Range(zero, n, one)", ("L",)),
        ("t = Range(one, n, one)", (None,)),
    ],
)
def test_sizes_that_follow_are_found_and_no_others(
    nodes: str, dims: tuple[int | str | None, ...]
) -> None:
    model = Model.from_proto(fill(onnx.parser.parse_model(TEXT.format(nodes=nodes))))
    resolve.infer(model)
    found = shapes.dims(model.graph.nodes[-1].inputs[0]) or ()
    known = tuple(
        None if isinstance(d, str) and d.startswith(resolve.GENERATED) else d for d in found
    )
    assert known == dims


def test_sizes_are_found_of_what_the_graph_returns_too() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[B,L,6] x, float[B,P,6] past) => (float[B,T,6] present, float[B,T,6] y)
    { present = Concat <axis = 1> (past, x)  y = Relu(present) }
    """
    model = Model.from_proto(onnx.parser.parse_model(text))
    resolve.infer(model)
    assert [shapes.dims(n.outputs[0]) for n in model.graph.nodes] == [("B", "L + P", 6)] * 2

"""Sizes of computed shapes, which onnx's inference gives up on."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxopt import resolve, shapes
from onnxopt.model import Model
from onnxopt.testing import fill

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[B,L,6] x, float[1,1] e, float[M,1] u) => (float y)
   <int64[1] rest = {{-1}}, int64[1] two = {{2}}, int64 zero = {{0}}, int64 one = {{1}}>
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

"""What is known of shapes, and what must not be believed."""

from __future__ import annotations

import onnx
import onnx.parser

from onnxopt import Model, shape_values, shapes


def dims(text: str) -> dict[str, tuple[int | str | None, ...] | None]:
    model = Model.from_proto(onnx.parser.parse_model(text))
    shapes.infer(model)
    return {t.name: shapes.dims(t) for n in model.graph.nodes for t in n.outputs}


def test_symbols_are_kept() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch,3,8] x) => (float[batch,8,3] y) { y = Transpose<perm = [0, 2, 1]>(x) }"""
    assert dims(text) == {"y": ("batch", 8, 3)}


def test_unsorted_axes_of_an_old_squeeze() -> None:
    text = """<ir_version: 6, opset_import: ["" : 9]>
    g (float[1,5,2,1] x) => (float[5,2] y) { y = Squeeze<axes = [3, 0]>(x) }"""
    assert dims(text) == {"y": (5, 2)}


def test_shapes_that_the_file_lists_are_not_believed() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch,4] x) => (float[1,4] y) <float[1,4] r> { r = Relu(x)  y = Neg(r) }"""
    assert dims(text) == {"r": ("batch", 4), "y": ("batch", 4)}


def test_vague_symbols_are_no_symbols() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[unk,unk] x) => (float[unk,unk] y) { y = Relu(x) }"""
    found = dims(text)["y"]
    assert found is not None
    assert found[0] != found[1]


def test_shape_arithmetic_is_followed() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch,6,8] x) => (int64[3] out)
      <int64 one = {1}, int64[1] zero = {0}, int64[1] two = {2}>
    {
      s = Shape(x)
      b = Gather(s, zero)
      c = Gather(s, one)
      d = Unsqueeze(c, zero)
      e = Mul(d, two)
      out = Concat<axis = 0>(b, e, two)
    }"""
    model = Model.from_proto(onnx.parser.parse_model(text))
    shapes.infer(model)
    assert shape_values.elements(model.graph.outputs[0]) == [shapes.Axis("batch"), 12, 2]


def test_lengths_are_told_from_numbers_that_stand_for_a_choice() -> None:
    """`Where(wanted == -1, 1, wanted)`: what exporters write in front of an Expand."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch,6] x, int64[1] n) => (int64[4] out, int64[4] other)
      <int64[1] one = {1}, int64[1] six = {6}, int64[4] no = {-1,-1,-1,-1},
       int64[4] ones = {1,1,1,1}, int64[4] twos = {2,2,2,2}>
    {
      s = Shape(x)
      wanted = Concat<axis = 0>(s, one, n)
      whole = Equal(wanted, no)
      out = Where(whole, ones, wanted)
      some = Equal(wanted, twos)
      other = Where(some, ones, wanted)
    }"""
    model = Model.from_proto(onnx.parser.parse_model(text))
    shapes.infer(model)
    found = shape_values.elements(model.graph.outputs[0])
    assert found is not None
    assert found[:3] == [shapes.Axis("batch"), 6, 1]
    assert found[3] != shapes.Axis("n")  # may be -1
    other = shape_values.elements(model.graph.outputs[1])
    assert other is not None
    assert other[1:3] == [6, 1]
    assert other[0] != shapes.Axis("batch")  # may be 2

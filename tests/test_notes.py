"""What exporters note for debugging goes; what anybody else wrote stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt_passes.clean import Clean

TEXT = """<ir_version: 10, opset_import: ["" : 17]>
g (float[8] x, bool c) => (float[8] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
   a = Mul(x, w)
   y = If (c) <
      then_branch = t () => (float[8] p) { p = Relu(a) },
      else_branch = e () => (float[8] q) { q = Abs(a) }
   >
}"""

TRACE = ("pkg.torch.onnx.stack_trace", 'File "/home/ann/train.py", line 3')


def _note(message, *entries):
    for key, value in entries:
        message.metadata_props.add(key=key, value=value)


def _noted():
    proto = onnx.parser.parse_model(TEXT)
    graph = proto.graph
    _note(graph.node[0], TRACE, ("namespace", ": acme.Net/mul: aten.mul"), ("owner", "ann"))
    _note(graph.node[1].attribute[0].g.node[0], TRACE)
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [8]))
    graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8]))
    for listed in graph.value_info:
        _note(listed, ("pkg.torch.onnx.original_node_name", "p"))
    for value in (*graph.input, *graph.output):
        _note(value, ("pkg.torch.onnx.original_node_name", "p"))
    _note(graph, ("pkg.torch.export.ExportedProgram.range_constraints", "{}"))
    _note(proto, ("version", "3"), ("pkg.acme.id", "7"))
    return proto


def _cleaned(proto, **options):
    model = Model.from_proto(proto)
    edits = Clean(**options).run(model, Context())
    return model.export().whole(), edits


def test_they_go_with_one_edit_a_graph():
    after, edits = _cleaned(_noted())
    assert edits == 2
    text = str(after.graph)
    assert text.count("pkg.") == 3  # of inputs and outputs
    assert "namespace" not in text
    assert [p.key for p in after.graph.node[0].metadata_props] == ["owner"]
    assert [v.name for v in after.graph.value_info] == ["a"]
    onnx.checker.check_model(after, full_check=True)
    assert _cleaned(after)[1] == 0


def test_those_of_the_model_its_inputs_and_outputs_stay():
    before = _noted()
    after, _ = _cleaned(before)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert {p.key for p in after.metadata_props} == {"version", "pkg.acme.id"}


def test_they_stay_where_that_is_asked_for():
    before = _noted()
    after, edits = _cleaned(before, notes=True)
    assert edits == 0
    assert after.graph.node[0].metadata_props == before.graph.node[0].metadata_props
    assert len(after.graph.value_info) == 2
    assert str(after.graph).count("pkg.") == str(before.graph).count("pkg.")


@pytest.mark.parametrize("says", ["doc_string", "owner"])
def test_a_type_that_says_more_stays(says):
    proto = _noted()
    listed = proto.graph.value_info[1]
    if says == "doc_string":
        listed.doc_string = "learned"
    else:
        _note(listed, ("owner", "ann"))
    after, _ = _cleaned(proto)
    assert [v.name for v in after.graph.value_info] == ["w", "a"]


def test_an_edit_that_is_not_allowed_is_not_made():
    model = Model.from_proto(_noted())
    assert Clean().run(model, Context(allow=lambda edit: not edit.startswith("notes@"))) == 0
    assert str(model.export().whole().graph).count("pkg.") == 8


def test_an_initializer_that_is_returned_keeps_its_type():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[8] x) => (float[8] y, float[8] w) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
       y = Mul(x, w)
    }""")
    after, edits = _cleaned(proto)
    assert edits == 0
    assert [o.name for o in after.graph.output] == ["y", "w"]
    assert np.all(onnx.numpy_helper.to_array(after.graph.initializer[0]) == np.arange(1, 9))

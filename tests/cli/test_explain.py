"""`onnxopt explain` names the guard that stopped a rewrite."""

from __future__ import annotations

import onnx
import onnx.parser

NEAR = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,3,10,10] p)
   <float[4,3,3,3] w, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
{
  [pad] p = Pad(x, pads)
  y = Conv(p, w)
}
"""

READ_TWICE = NEAR.replace(
    "=> (float[N,4,8,8] y, float[N,3,10,10] p)", "=> (float[N,4,8,8] y, float[N,3,10,10] q)"
).replace("y = Conv", "q = Relu(p)\n  y = Conv")


def save(text: str) -> None:
    from onnxopt.testing import fill

    onnx.save(fill(onnx.parser.parse_model(text)), "near.onnx")


def test_the_guard_is_named(cli):
    save(READ_TWICE)
    page = cli("explain", "near.onnx").page
    assert "pad_conv" in page
    assert "not only Convs of this graph read the padded tensor" in " ".join(page.split())
    assert "makes 0 rewrites, and stands back from 1 near miss" in page


def test_as_json(cli):
    save(READ_TWICE)
    found = cli("explain", "near.onnx", "--json").json
    assert found["made"] == []
    assert [(m["rule"], m["node"]) for m in found["missed"]] == [("pad_conv", "pad")]


def test_only_some_nodes(cli):
    save(READ_TWICE)
    assert cli("explain", "near.onnx", "--node", "other*", "--json").json["missed"] == []


def test_nothing_to_explain(cli):
    page = cli("explain", "model.onnx").page
    assert "no rule stands back" in page


RMS = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[N,5,8] x) => (float[N,5,8] y)
   <float[8] w, float two = {2}, float eps = {0.00001}, int64[1] last = {-1}>
{
  [pow] p = Pow(x, two)
  v = ReduceMean(p, last)
  %s
}
"""


def test_nothing_is_said_of_a_node_that_another_rule_has_taken(cli):
    save(RMS % "e = Add(v, eps) r = Sqrt(e) n = Div(x, r) y = Mul(n, w)")
    found = cli("explain", "near.onnx", "--json").json
    assert [edit.partition("@")[0] for edit in found["made"]] == ["rms_normalization"]
    assert found["missed"] == []


def test_a_node_that_stays_is_told_of(cli):
    save(RMS % "y = Mul(x, v)")
    found = cli("explain", "near.onnx", "--json").json
    assert [(m["rule"], m["node"]) for m in found["missed"]] == [("pow", "pow")]

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

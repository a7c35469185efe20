"""How sensitive a model is, node by node: the errors, what is saved, and the order."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt_passes.quant import Quant, survey

CONVS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,16,16] x) => (float[N,8,12,12] y)
   <float[16,3,3,3] w, float[8,16,3,3] v>
{
   a = Conv(x, w)
   b = Relu(a)
   y = Conv(b, v)
}"""

PRODUCTS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,64] y)
   <float[64,64] w, float[64,64] v>
{
   a = MatMul(x, w)
   b = Tanh(a)
   y = MatMul(b, v)
}"""


def weight(model, name):
    return next(
        t for n in model.graph.nodes for t in n.inputs if t.name == name and hasattr(t, "values")
    )


def spoiled(model, name):
    """Give a weight one element so large that the steps of all others in its scale get coarse."""
    tensor = weight(model, name)
    values = tensor.values.copy()
    values.reshape(-1)[0] = 40 * np.abs(values).max()
    tensor.values = values
    return model


def test_a_price_is_a_share_of_the_error_over_a_share_of_what_is_saved():
    rows = [
        {"name": "a", "error": 0.1, "microseconds": 30.0, "bytes": 100},
        {"name": "b", "error": 0.1, "microseconds": 10.0, "bytes": 300},
        {"name": "c", "error": 0.1, "microseconds": -5.0, "bytes": 0},
        {"name": "d", "error": None, "microseconds": 5.0, "bytes": 10},
    ]
    found = {r["name"]: r["price"] for r in survey.priced(rows)}
    assert found["a"] == pytest.approx((1 / 3) / ((30 / 45 + 100 / 410) / 2))
    assert found["b"] == pytest.approx((1 / 3) / ((10 / 45 + 300 / 410) / 2))
    assert found["c"] is None
    assert found["d"] is None
    assert [r["name"] for r in survey.priced(rows)] == ["c", "d", "a", "b"]


def test_the_node_whose_weight_has_an_outlier_costs_most(model, context):
    made = spoiled(model(CONVS), "w")
    found = Quant(mode="static", granularity="tensor").survey(made, context((1, 3, 16, 16)))
    rows = {r["name"]: r for r in found["nodes"]}
    assert set(rows) == {"a", "y"}
    assert rows["a"]["error"] > 2 * rows["y"]["error"]
    assert rows["y"]["bytes"] == 4 * 1152 - 1152 - 4 * 8
    assert all(r["step"] == "static" and r["microseconds"] is not None for r in found["nodes"])
    assert found["samples"] >= 4


@pytest.mark.parametrize(("mode", "names"), [("dynamic", {"a", "y"}), ("weights", {"w", "v"})])
def test_products_and_weights_are_tried_one_by_one(model, context, mode, names):
    ctx = context((1, 64))
    found = Quant(mode=mode).survey(model(PRODUCTS), ctx)
    assert {r["name"] for r in found["nodes"]} == names
    assert all(0 < r["error"] < 0.1 for r in found["nodes"])
    assert all(2000 < r["bytes"] < 3 * 64 * 64 for r in found["nodes"])
    assert {r["op"] for r in found["nodes"]} == {"MatMul"}


def test_the_model_is_not_changed(model, context):
    made = model(CONVS)
    before = made.export().whole().SerializeToString()
    Quant().survey(made, context((1, 3, 16, 16)))
    assert made.export().whole().SerializeToString() == before

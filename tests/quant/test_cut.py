"""Which units run in integers, for given times."""

from __future__ import annotations

import pytest

from onnxopt import shapes
from onnxopt_passes.quant import cut, units
from onnxopt_passes.quant.cut import Times

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

CHAIN = (
    HEAD
    + """g (float[1,4,6,6] x) => (float[1,4,6,6] z)
<float[4,4,1,1] w1, float[4,4,1,1] w2> {
   c = Conv(x, w1)
   h = HardSigmoid(c)
   m = Mul(c, h)
   y = Conv(m, w2)
   z = Elu(y)
}"""
)


def _cheapest(model, floats, integers, border=5.0, penalty=None):
    found = model(CHAIN)
    shapes.infer(found)
    names = units.find(found.graph)
    borders = {t.name: border for u in names for t in (*u.inputs, u.output)}
    return cut.cheapest(names, Times(floats, integers, borders), penalty or {})


INTEGERS = {"c": 20.0, "h": 2.0, "m": 2.0, "y": 20.0}


def test_what_a_float_kernel_takes_along_costs_time_once_its_maker_is_in_integers(model):
    # the activation is free in float; beside a convolution in integers it is not
    assert _cheapest(model, {"c": 100.0, "y": 100.0}, INTEGERS) == {"c", "h", "m", "y"}


def test_activations_stay_in_float_where_integers_of_theirs_are_slow(model):
    slow = INTEGERS | {"h": 50.0, "m": 50.0}
    assert _cheapest(model, {"c": 100.0, "y": 100.0}, slow) == {"c", "y"}


def test_activations_alone_are_not_worth_their_borders(model):
    slow = INTEGERS | {"c": 120.0, "y": 120.0}
    assert _cheapest(model, {"c": 100.0, "y": 100.0}, slow) == set()


def test_a_region_whose_borders_cost_more_than_it_gains_stays_in_float(model):
    floats = {"c": 100.0, "h": 3.0, "m": 3.0, "y": 100.0}
    assert _cheapest(model, floats, INTEGERS, border=90.0) == set()
    assert _cheapest(model, floats, INTEGERS, border=70.0) == {"c", "h", "m", "y"}


def test_error_is_bought_off_where_it_costs_least_time(model):
    floats = {"c": 100.0, "h": 3.0, "m": 3.0, "y": 100.0}
    assert _cheapest(model, floats, INTEGERS, penalty={"y": 200.0}) == {"c", "h", "m"}


@pytest.mark.parametrize("name", ["c", "y"])
def test_what_has_no_integer_kernel_is_not_chosen(model, name):
    integers = {n: t for n, t in INTEGERS.items() if n != name}
    assert name not in _cheapest(model, {"c": 100.0, "y": 100.0}, integers)

"""Plans that are timed as a whole; the times are dictated by the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxopt import deployed, shapes
from onnxopt.deployed import Cost
from onnxopt.runtime import Settings
from onnxopt_passes.quant import Quant, cut, units
from onnxopt_passes.quant.converter import Converter
from onnxopt_passes.quant.cut import Times
from onnxopt_passes.quant.settle import FEW, Settler
from onnxopt_passes.quant.trial import Trial, parts

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

CHAIN = (
    HEAD
    + """g (float[1,4,6,6] x) => (float[1,4,6,6] z)
<float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3, float[4,4,1,1] w4> {
   a = Conv(x, w1)
   b = Conv(a, w2)
   c = Conv(b, w3)
   d = Conv(c, w4)
   z = Elu(d)
}"""
)

FLOATS = dict.fromkeys("abcd", 100.0)
INTEGERS = {"a": 110.0, "b": 50.0, "c": 110.0, "d": 50.0}


@pytest.fixture
def settler(model, monkeypatch):
    """A settler whose plans take what a function of their units says, unit by unit."""
    found = model(CHAIN)
    shapes.infer(found)

    def make(costs):
        def times(models, *_):
            return [{n: Cost("Conv", t) for n, t in costs(set(m)).items()} for m in models]

        monkeypatch.setattr(deployed, "times", times)
        return Settler(frozenset, units.find(found.graph), {}, 1, 0.1)

    return make


def _times(settler, integers=None):
    borders = {t.name: 1.0 for u in settler.found for t in (*u.inputs, u.output)}
    return Times(FLOATS, integers or INTEGERS, borders)


def _plain(chosen):
    return {n: INTEGERS[n] if n in chosen else t for n, t in FLOATS.items()}


def test_a_gap_that_costs_changes_of_layout_is_closed(settler):
    # any unit in float makes each integer one change its layout
    def costs(chosen):
        layout = 0.0 if len(chosen) == 4 else 30.0 * len(chosen)
        return {**_plain(chosen), "Transpose": layout}

    made = settler(costs)
    kept, times = made.close({"b", "d"}, _times(made))
    assert kept == {"a", "b", "c", "d"}
    assert cut.cheapest(made.found, times, {}) == kept  # accuracy for free keeps it so
    assert cut.cheapest(made.found, times, {"a": 1e4}) == {"b", "c", "d"}


def test_one_gap_of_two_is_closed_where_only_that_one_pays(settler):
    def costs(chosen):
        return {**_plain(chosen), "Transpose": 0.0 if "c" in chosen else 40.0}

    made = settler(lambda chosen: costs(chosen) | ({"Q": 90.0} if "a" in chosen else {}))
    kept, _ = made.close({"b", "d"}, _times(made))
    assert kept == {"b", "c", "d"}


def test_what_does_not_clearly_pay_stays_as_it_is(settler):
    made = settler(lambda chosen: {**_plain(chosen), "Transpose": 300.0 - 21.0 * ("a" in chosen)})
    times = _times(made)
    assert made.close({"b", "c", "d"}, times)[0] == {"a", "b", "c", "d"}
    made = settler(lambda chosen: {**_plain(chosen), "Transpose": 300.0 - 11.0 * ("a" in chosen)})
    assert made.close({"b", "c", "d"}, times) == ({"b", "c", "d"}, times)


def test_without_integers_there_are_no_gaps(settler):
    made = settler(_plain)
    assert made.close(set(), _times(made))[0] == set()


def test_a_unit_that_is_slow_beside_float_is_opened(settler):
    # c was quick with everything in integers; beside a, in float, it is not
    integers = INTEGERS | {"c": 20.0}

    def costs(chosen):
        slow = 900.0 if "a" not in chosen else 20.0
        return {**FLOATS, **{n: slow if n == "c" else integers[n] for n in chosen}}

    made = settler(costs)
    times = _times(made, integers)

    def recut(kept, new):
        return cut.cheapest(
            made.found, new, {u.name: np.inf for u in made.found} | dict.fromkeys(kept, 0.0)
        )

    kept, charged = made.open({"b", "c", "d"}, times, recut)
    assert kept == {"b", "d"}
    assert charged.integers["c"] == 900.0
    assert times.integers["c"] == 20.0


def test_a_plan_without_slow_units_is_left(settler):
    made = settler(_plain)
    times = _times(made)
    kept, charged = made.open({"b", "d"}, times, lambda kept, new: set())
    assert kept == {"b", "d"}
    assert charged is times


BLOCKS = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] z)
<float[8,8,3,3] w0, float[8,8,3,3] w1, float[8,8,3,3] w2> {
   s = Conv<pads=[1,1,1,1]>(x, w0)
   r = Relu(s)
   a = Conv<pads=[1,1,1,1]>(r, w1)
   b = Add(a, r)
   c = Conv<pads=[1,1,1,1]>(b, w2)
   d = Add(c, b)
   z = Elu(d)
}"""
)


def _transposes(exported):
    nodes = deployed.rewritten(exported, Settings(True, 1)).graph.node
    return sum(node.op_type == "Transpose" for node in nodes)


def test_one_convolution_in_float_costs_residual_blocks_their_layout(model, context, monkeypatch):
    # what `close` is for, in onnxruntime itself
    ctx = context((1, 8, 12, 12))
    found = model(BLOCKS)
    shapes.infer(found)
    fit, check = parts(ctx.calibration, found.export(), 0)
    trial = Trial(found.export(), check, ctx)
    converter = Converter(found, Quant(mode="static"), ctx, "x64", fit, trial)
    every = {u.name for u in converter.able()}
    assert every == {"s", "a", "b", "c", "d"}
    assert _transposes(converter.build(every)) == 2
    assert _transposes(converter.build(every - {"s"})) == 4

    def times(models, *_):
        return [{"all": Cost("Conv", 1.0 + _transposes(m))} for m in models]

    monkeypatch.setattr(deployed, "times", times)
    costs = Times(dict.fromkeys("sabcd", 1.0), dict.fromkeys("sabcd", 1.0), {})
    assert converter._settler(costs).close(every - {"s"}, costs)[0] == every


def test_slow_models_are_run_less_often(settler, monkeypatch):
    runs = []
    made = settler(_plain)

    def times(models, _settings, _feed, number):
        runs.append(number)
        return [{} for _ in models]

    monkeypatch.setattr(deployed, "times", times)
    for seconds in (1e-3, 0.2, 9.0):
        replace(made, seconds=seconds).close({"a", "b", "c"}, _times(made))
    assert runs == [deployed.RUNS, 10, FEW]

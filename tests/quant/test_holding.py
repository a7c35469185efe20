"""Which of two ways to hold the metric is taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from onnxopt.base import Context
from onnxopt_passes.quant import holding
from onnxopt_passes.quant.sensitivity import Search
from onnxopt_passes.quant.trial import Found

ERRORS = {"conv1": 0.001, "gate1": 0.03, "conv2": 0.001, "gate2": 0.03}


class Errors:
    """A trial whose models are sets of names, and whose drop is the sum of their errors."""

    def judge(self, names, most=None):
        return Found(sum(ERRORS[n] for n in names), 0.0)

    def drop(self, names, limit=float("inf")):
        return sum(ERRORS[n] for n in names)


def _unit(name):
    return SimpleNamespace(name=name, weighted=name.startswith("conv"), inputs=(), output=object())


def _whole(kept, shares, price):
    """A region: without its gates, its convolutions do not pay at any price of error."""
    dear = price * max((shares.get(n, 0.0) for n in kept), default=0.0)
    return kept if dear < 1 else set()


def _without_gate(kept, shares, price):
    return kept - {"gate2"} if shares else kept


def _hold(monkeypatch, recut, quicker=False, timed=True, max_drop=0.005, begin=None):
    asked = []

    def faster(before, after, trial, ctx, ratio):
        asked.append((before, after))
        assert ratio < 1
        return quicker, ""

    monkeypatch.setattr(holding, "faster", faster)
    units = [_unit(name) for name in ERRORS]
    search = Search(set, Errors(), max_drop, recut)
    kept, _ = holding.hold(search, units, begin or set(ERRORS), Context(), timed)
    return kept, asked


def test_units_alone_where_nothing_of_a_region_holds(monkeypatch):
    assert _hold(monkeypatch, _whole) == ({"conv1", "conv2"}, [])


def test_a_region_that_holds_is_left_whole(monkeypatch):
    assert _hold(monkeypatch, _whole, max_drop=1.0) == (set(ERRORS), [])


@pytest.mark.parametrize("quicker", [False, True])
def test_the_faster_of_both(monkeypatch, quicker):
    monkeypatch.setitem(ERRORS, "gate1", 0.0)
    kept, asked = _hold(monkeypatch, _without_gate, quicker)
    region, alone = {"conv1", "gate1", "conv2"}, {"conv1", "conv2"}
    assert asked == [(region, alone)]
    assert kept == (alone if quicker else region)


def test_without_times_there_is_one_way(monkeypatch):
    assert _hold(monkeypatch, _whole, timed=False) == (set(), [])


def test_where_no_region_holds_errors_of_what_was_aside_are_not_asked_for(monkeypatch):
    asked = []
    errors = Search.errors

    def watched(self, parts):
        asked.append([name for part in parts for name in part])
        return errors(self, parts)

    monkeypatch.setattr(Search, "errors", watched)
    kept, _ = _hold(monkeypatch, _whole, begin={"gate1", "gate2"})
    assert kept == {"conv1", "conv2"}
    assert asked == [["gate1", "gate2"]]


def test_what_was_aside_comes_back_where_it_holds(monkeypatch):
    monkeypatch.setitem(ERRORS, "gate1", 0.0)
    kept, _ = _hold(monkeypatch, _without_gate, begin={"conv1", "gate1"})
    assert kept == {"conv1", "gate1", "conv2"}

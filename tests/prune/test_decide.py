"""One call from groups and a wish to a cut model."""

import numpy as np
import pytest
from prune import topologies
from residual import inner, residual, samples_of, sliced, spine

from onnxopt import Context, Model, cost
from onnxopt.errors import SamplesError
from onnxopt.statistics import linear
from onnxopt_passes.prune import branch, widths
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.decide import Wish, _Offer, decide
from onnxopt_passes.prune.obs import Ranking


@pytest.fixture(autouse=True)
def step(monkeypatch):
    monkeypatch.setattr(widths, "step", lambda family, threads=1: 16)


def decided(wish: Wish, n: int = 30, **given):
    model = residual()
    groups = (inner(model), spine(model))
    return model, decide(model, groups, sliced, Context(samples_of(n)), wish, **given)


def test_macs_are_met_at_widths_that_are_offered():
    model, decision = decided(Wish("macs", 0.7))
    before, after = (cost.measure(m.export()).macs for m in (model, decision.result.model))
    assert after <= 0.71 * before
    assert all(w % 4 == 0 for w in decision.result.widths), "narrow groups go in steps of four"
    assert decision.unranked == ()


def test_every_width_without_alignment():
    _, decision = decided(Wish("ratio", 0.25, align=False, least=7))
    assert decision.result.widths == [9, 7]


def test_time_takes_only_whole_steps():
    """Both groups are narrower than a step, so there is nothing to choose."""
    model, decision = decided(Wish("latency", 1.0))
    assert decision.result.widths == []
    assert decision.result.model.export().proto == model.clone().export().proto


def test_rankings_may_come_from_elsewhere():
    order = np.arange(12)
    given = {"c1": Ranking(order, np.arange(13) / 12)}
    _, decision = decided(Wish("ratio", 0.5, align=False), rankings=given)
    assert decision.unranked == ("c0",)
    assert list(decision.place.keeps(decision.result.widths)["c1"]) == [6, 7, 8, 9, 10, 11]


def test_too_few_samples_are_refused():
    with pytest.raises(SamplesError, match="at least 8"):
        decided(Wish("macs", 0.5), n=7)


@pytest.mark.parametrize(
    ("wish", "droppable"),
    [
        (Wish("macs", 0.5), True),
        (Wish("macs", 0.5, least=2), False),
        (Wish("ratio", 0.5), False),
    ],
    ids=["budget", "min_channels", "ratio"],
)
def test_when_branches_may_go_whole(wish, droppable):
    model = Model.from_proto(topologies.resnet())
    found = {g.name: g for g in analyse(model).free if branch.end(g) is not None}
    offer = _Offer(linear.find_all(model.graph), wish, 1)
    assert found
    assert {0 in offer.widths(g) for g in found.values()} == {droppable}

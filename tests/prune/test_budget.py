"""Budgets are met by what is counted on the cut model."""

import pytest
from residual import inner, residual, samples_of, sliced, spine

from onnxopt import cost
from onnxopt.errors import BudgetError
from onnxopt.runtime import CannotRun
from onnxopt.statistics import linear
from onnxopt.timing import Timing
from onnxopt_passes.prune import budget as budgets
from onnxopt_passes.prune import search
from onnxopt_passes.prune.budget import Budget, Kind
from onnxopt_passes.prune.collect import collect
from onnxopt_passes.prune.consumers import ranking
from onnxopt_passes.prune.judge import Judge
from onnxopt_passes.prune.widths import allowed
from onnxopt_passes.prune.workshop import Workshop

SAMPLES = samples_of(24)
ASIDE = samples_of(8, seed=1)


@pytest.fixture(scope="module")
def parts():
    model = residual()
    reads = collect(model, linear.find_all(model.graph), SAMPLES.feeds, SAMPLES.count())
    shop = Workshop(model, (inner(model), spine(model)), reads, sliced)
    rankings = {g.name: ranking(g, reads) for g in shop.groups}
    place = search.space(
        shop.groups,
        rankings,
        lambda g: allowed(g.size, 1, 2),
        lambda chosen: search.works(chosen, search.multiplications(reads)),
    )
    return shop, place, Judge(model, ASIDE.feeds(), "sqnr")


def searched(parts, kind: Kind, value: float) -> Budget:
    return Budget(*parts, SAMPLES, kind, value)


@pytest.mark.parametrize("value", [0.8, 0.5])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_counted_budget_is_met(parts, kind, value):
    shop, _, _ = parts
    result = searched(parts, kind, value).run()
    share = getattr(cost.measure(result.model.export()), kind) / getattr(
        cost.measure(shop.source.export()), kind
    )
    assert value - 0.15 < share <= value + budgets.OVER


def test_a_ratio_takes_the_same_share_of_each(parts):
    result = searched(parts, "ratio", 0.5).run()
    assert result.widths == [6, 4]


def test_a_fit_that_takes_the_answers_further_away_is_refused(parts, monkeypatch):
    shop, place, judge = parts
    plain = judge.of(shop.absorbed(place.keeps([6, 4])))

    def worse(student, *_):
        for layer in linear.find_all(student.graph):
            layer.write(0.5 * layer.matrix())
        return {"c1": None}

    monkeypatch.setattr(Workshop, "fit", lambda _, student, *rest: worse(student))
    result = searched(parts, "ratio", 0.5).run()
    assert result.judgement == plain
    assert result.fits == {}
    assert result.why.startswith("fit refused: divergence")


def test_a_model_that_cannot_be_run_in_parts_is_cut_all_the_same(parts, monkeypatch):
    def stuck(*_):
        raise CannotRun("'s' is no tensor, and a model cannot be cut there")

    monkeypatch.setattr(Workshop, "fit", stuck)
    result = searched(parts, "ratio", 0.5).run()
    assert result.widths == [6, 4]
    assert result.why == "no fit: 's' is no tensor, and a model cannot be cut there"


def test_the_largest_cut_within_a_drop(parts, monkeypatch):
    monkeypatch.setattr(search, "BISECTIONS", 3)
    result = searched(parts, "drop", 0.002).run()
    assert result.widths != [12, 8]
    assert result.judgement.drop <= 0.004
    milder = searched(parts, "drop", 0.0).run()
    assert milder.widths == [12, 8]
    assert not milder.fits


def test_a_budget_out_of_reach_says_what_is_left(parts):
    with pytest.raises(BudgetError, match=r"macs=0.01 cannot be met: .* leave 0\.\d+"):
        searched(parts, "macs", 0.01).run()


def test_latency_is_measured(parts, monkeypatch, tmp_path):
    """The clock is replaced by a count, so that the search is put to the test, not the CPU."""
    shop, _, _ = parts

    def interleave(sessions, feed, seconds, *_):
        sizes = [session.size for session in sessions]
        return [Timing(size, size, 0.0, 1) for size in sizes]

    class Sized:
        def __init__(self, exported, settings):
            self.size = float(cost.measure(exported).params)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(budgets, "Session", Sized)
    monkeypatch.setattr(budgets, "interleave", interleave)
    result = searched(parts, "latency", 0.6).run()
    share = cost.measure(result.model.export()).params / cost.measure(shop.source.export()).params
    assert share <= 0.6 + budgets.OVER
    monkeypatch.setattr(budgets, "interleave", lambda *_: pytest.fail("timed again"))
    assert searched(parts, "latency", 0.6).run().widths == result.widths


@pytest.mark.parametrize("most", [7, 30, 60, 100])
def test_samples_are_thinned_evenly(most):
    samples = samples_of(60)
    found = budgets.thinned(samples, most)
    count = sum(1 for _ in found)
    assert abs(count - min(most, 60)) <= 1
    feeds = [f["x"].tobytes() for f in samples.feeds()]
    places = [feeds.index(f["x"].tobytes()) for f in found.feeds()]
    assert max(places) >= 60 - 2 * (60 // most + 1)


def test_a_share_of_time_is_by_the_median_unless_that_is_noise():
    source = Timing(1.0, 2.0, 0.1, 100)
    assert budgets._share(source, Timing(0.5, 1.05, 0.1, 100)) == pytest.approx(0.525)
    assert budgets._share(source, Timing(0.5, 0.9, 0.1, 100)) == 0.5
    assert budgets._share(source, Timing(0.5, 1.9, 0.1, 100)) == pytest.approx(0.54)

"""Groups ranked and cut by what their consumers read."""

from dataclasses import replace

import numpy as np
import pytest
from residual import inner, residual, samples_of

from onnxopt import Model
from onnxopt.statistics import Tap, linear
from onnxopt_passes.prune import collect as collecting
from onnxopt_passes.prune.collect import Read, by_channel, collect, from_channel
from onnxopt_passes.prune.consumers import absorb_cut, ranking
from onnxopt_passes.prune.groups import Group, Member, Role

SAMPLES = samples_of(60)


def reads_of(model: Model) -> dict[str, Read]:
    layers = linear.find_all(model.graph)
    return collect(model, layers, SAMPLES.feeds, SAMPLES.count())


def distance(model: Model, other: Model) -> float:
    taps = [
        Tap(m, [next(t for n in m.graph.nodes for t in n.outputs if t.name == "sum")])
        for m in (model, other)
    ]
    fresh = samples_of(20, seed=1)
    ours, theirs = (np.concatenate([v[0] for v in tap.over(fresh)]) for tap in taps)
    return float(((ours - theirs) ** 2).mean(axis=(0, 2, 3)).sum() / theirs.var((0, 2, 3)).sum())


def zeroed(model: Model, gone: np.ndarray) -> Model:
    found = model.clone()
    c2 = linear.find_all(found.graph)[2]
    values = c2.weight.values.copy()
    values[:, gone] = 0
    c2.weight.values = values
    return found


@pytest.mark.parametrize("largest", [2304, 50])
def test_the_curve_foretells_the_error(monkeypatch, largest):
    """Up to the positions at the border, of which rows are drawn as of all others."""
    monkeypatch.setattr(collecting, "LARGEST", largest)
    model = residual()
    reads = reads_of(model)
    assert reads["c2"].shared == (largest == 50)
    found = ranking(inner(model), reads)
    assert found is not None
    gone = found.order[:5]
    cut = model.clone()
    layer = linear.find_all(cut.graph)[2]
    read = replace(reads["c2"], layer=layer)
    absorb_cut(read, np.isin(np.arange(12), gone))
    assert not layer.weight.values[:, gone].any()
    error, plain = distance(cut, model), distance(zeroed(model, gone), model)
    assert error < 0.7 * plain
    if largest == 2304:
        assert error == pytest.approx(found.errors[5], rel=0.35)


def test_the_power_is_that_of_the_sum():
    model = residual()
    read = reads_of(model)["c2"]
    total = next(t for n in model.graph.nodes for t in n.outputs if t.name == "sum")
    values = np.concatenate([v[0] for v in Tap(model, [total]).over(SAMPLES)])
    assert read.power == pytest.approx(values.var((0, 2, 3)).sum(), rel=0.05)


def test_layers_that_do_not_fit_together_take_more_passes(monkeypatch):
    model = residual()
    whole = reads_of(model)
    monkeypatch.setattr(collecting, "ELEMENTS", 1)
    parts = reads_of(model)
    assert list(parts) == list(whole)
    assert parts["c2"].power == pytest.approx(whole["c2"].power)


def test_channels_and_taps_are_put_back():
    layer = linear.find_all(residual().graph)[2]
    np.testing.assert_array_equal(from_channel(layer, by_channel(layer)), layer.matrix())


def test_a_group_that_no_layer_reads_has_no_ranking():
    model = residual()
    member = inner(model).consumers[0]
    other = Member(member.node, member.constant, 0, Role.CONSUMER, member.columns)
    assert ranking(Group("w1", 12, (other,)), reads_of(model)) is None


def test_layers_that_read_what_is_not_finite_are_left_out():
    model = residual()
    model.graph.nodes[0].inputs[2].values = np.full(8, np.nan, np.float32)
    assert list(reads_of(model)) == []

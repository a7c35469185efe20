"""Lengths that only runs show."""

import numpy as np
from prune import sequences, topologies
from prune.net import Net

from onnxopt import cost
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.observe import drawn, observe
from onnxopt_passes.prune.prune import Prune


def observed(model, feeds=None):
    return observe(model, drawn(model) if feeds is None else feeds, Settings())


def test_what_stays_while_batch_and_length_vary_is_known() -> None:
    model = Model.from_proto(sequences.open_positions())
    apart = next(n for n in model.graph.nodes if n.op == "Reshape").outputs[0].name
    assert observed(model)[apart] == (None, None, 4, 16)


def test_heads_are_found_by_it() -> None:
    model = Model.from_proto(sequences.open_positions())
    assert not any(g.size == 4 for g in analyse(model).free)
    heads = [g for g in analyse(model, observed=observed(model)).free if g.size == 4]
    assert len(heads) == 2  # one a layer, though one shape serves both


def test_one_size_shows_nothing() -> None:
    model = Model.from_proto(sequences.open_positions())
    feed = {"x": np.zeros((2, 5, 64), np.float32)}
    assert observed(model, [feed, feed]) == {}
    assert observed(model, []) == {}


def test_fixed_shapes_need_no_run() -> None:
    assert observed(Model.from_proto(topologies.resnet())) == {}


def test_inputs_that_it_does_not_run_on_are_left_out() -> None:
    model = Model.from_proto(sequences.open_positions())
    sizes = (1, 7), (2, 5), (3, 700)  # there are 600 positions
    feeds = [{"x": np.zeros((a, b, 64), np.float32)} for a, b in sizes]
    apart = next(n for n in model.graph.nodes if n.op == "Reshape").outputs[0].name
    assert observed(model, feeds)[apart] == (None, None, 4, 16)
    assert observed(model, feeds[1:]) == {}


def test_axes_of_inputs_need_no_run() -> None:
    n = Net("N", 3, 8, 8)
    assert observed(Model.from_proto(n.build(n.head(n.relu(n.conv("x", 3, 8)), 8)))) == {}


def test_the_pass_cuts_them_and_names_the_heads() -> None:
    model = Model.from_proto(sequences.open_positions())
    before = cost.measure(model.export()).params
    ctx = Context()
    assert Prune(ratio=0.5).run(model, ctx)
    assert ctx.evidence["certificate"]["frozen"] == {}
    assert sum(g["before"] == 4 and g["after"] == 2 for g in ctx.evidence["groups"]) == 2
    assert cost.measure(model.export()).params < 0.45 * before

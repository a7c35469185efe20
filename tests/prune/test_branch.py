"""Whole branches that go with their group."""

import json

import numpy as np
import pytest
from prune import topologies
from prune.topologies import Net

from onnxopt.base import Context
from onnxopt.errors import SpecError
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune import branch, plan
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.certificate import Certifier
from onnxopt_passes.prune.cut import cut
from onnxopt_passes.prune.prune import Prune


def in_branches(model):
    return {g.name: g for g in analyse(model).free if branch.end(g) is not None}


def certified(model, *groups):
    feeds = list(synthetic(model.export().inputs, seed=0, n=2).feeds())
    gone = {g.name: np.zeros(g.size, bool) for g in groups}
    _, found = Certifier(model, feeds, Settings()).certify(gone)
    return found


def without(model, *groups):
    cut(analyse(model), {g.name: np.zeros(g.size, bool) for g in groups})
    return [n.op for n in model.graph.nodes]


@pytest.mark.parametrize("build", [topologies.resnet, topologies.mobilenet_v2, topologies.vit])
def test_a_model_without_its_branches_is_certified(build):
    found = in_branches(Model.from_proto(build()))
    assert found
    certificate = certified(Model.from_proto(build()), *found.values())
    assert not certificate.guilty
    assert certificate.groups == len(found)
    assert certificate.drift < 2e-6


def test_all_that_only_the_branch_needed_goes():
    model = Model.from_proto(topologies.resnet())
    found = in_branches(model)
    before = [n.op for n in model.graph.nodes]
    after = without(model, *found.values())
    assert before.count("Conv") - after.count("Conv") == 4
    assert after.count("Add") == 2  # a bias stays


def block(join, bias=True):
    """x + f(x), with `join(net, f(x), x)` in the place of the sum."""
    n = Net(2, 3, 6, 6)
    x = n.relu(n.conv("x", 3, 8))
    y = n.relu(n.conv(x, 8, 12))
    y = n.conv(y, 12, 8) if bias else n.op("Conv", y, n.weight(8, 12, 1, 1))
    return n, join(n, y, x)


def test_a_layer_without_a_bias_takes_the_sum_along():
    n, y = block(lambda n, y, x: n.op("Add", y, x), bias=False)
    model = Model.from_proto(n.build(n.head(y, 8)))
    group = in_branches(model)["w2"]
    assert "Add" not in without(model, group)
    n, y = block(lambda n, y, x: n.op("Add", y, x), bias=False)
    assert not certified(Model.from_proto(n.build(n.head(y, 8))), group).guilty


@pytest.mark.parametrize(
    "join",
    [
        lambda n, y, x: y,
        lambda n, y, x: n.op("Mul", y, x),
        lambda n, y, x: n.op("Add", y, n.const(np.ones((8, 1, 1), np.float32))),
        lambda n, y, x: n.op("Add", y, n.op("GlobalAveragePool", x)),
        lambda n, y, x: n.op("Add", n.op("Add", y, x), y),
        lambda n, y, x: n.op("Sum", y, x, x),
    ],
    ids=["no sum", "product", "constant", "broadcast", "read twice", "three terms"],
)
def test_what_is_no_branch_stays(join):
    n, y = block(join)
    assert "w2" not in in_branches(Model.from_proto(n.build(n.head(y, 8))))


def test_a_group_that_two_layers_read_stays():
    n = Net(2, 3, 6, 6)
    x = n.relu(n.conv("x", 3, 8))
    h = n.relu(n.conv(x, 8, 12))
    y = n.op("Add", n.op("Add", n.conv(h, 12, 8), x), n.conv(h, 12, 8))
    assert "w2" not in in_branches(Model.from_proto(n.build(n.head(y, 8))))


def test_both_terms_of_a_sum_cannot_go():
    n = Net(2, 3, 6, 6)
    sides = [n.conv(n.relu(n.conv("x", 3, 12)), 12, 8) for _ in range(2)]
    model = Model.from_proto(n.build(n.head(n.op("Add", *sides), 8)))
    found = in_branches(model)
    assert len(found) == 2
    with pytest.raises(SpecError, match="both terms"):
        without(model, *found.values())


def test_a_plan_may_drop_a_branch_and_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    model = Model.from_proto(topologies.resnet())
    name = next(iter(in_branches(model)))
    path.write_text(json.dumps({"groups": {name: {"keep": []}}}))
    ctx = Context()
    assert Prune(plan=str(path)).run(model, ctx) == 1
    assert [n.op for n in model.graph.nodes].count("Conv") == 4
    assert next(g for g in ctx.evidence["groups"] if g["name"] == name)["after"] == 0
    groups = analyse(Model.from_proto(topologies.plain())).groups
    path.write_text('{"groups": {"w0": {"keep": []}}}')
    with pytest.raises(SpecError, match="in no branch"):
        plan.read(path, groups)

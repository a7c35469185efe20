"""Criteria on samples, against what can be worked out by hand."""

import numpy as np
import pytest
from prune import topologies
from prune.net import Net

from onnxopt.base import Context
from onnxopt.errors import SamplesError
from onnxopt.model import Model
from onnxopt.samples import synthetic
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.criteria import scores
from onnxopt_passes.prune.prune import Prune
from onnxopt_passes.prune.seen import Seen


def seen_of(model, n=8):
    return Seen(model, synthetic(model.export().inputs, n=n))


def only(model):
    (group,) = analyse(model).free
    return group


def hidden(*inputs, classes=False):
    """x -> h = A x -> y = B h, with the rows of A and the columns of B of very different size."""
    n = Net(1, *inputs, 6)
    a = n.weight(6, 5)
    values = np.array([4, 3, 0.1, 2, 1], np.float32)
    b = n.const((n.rng.normal(size=(5, 3)) * values[:, None]).astype(np.float32))
    y = n.op("MatMul", n.op("MatMul", "x", a), b)
    return Model.from_proto(n.build(n.op("Softmax", y, axis=-1) if classes else y))


def test_activation_is_the_norm_of_what_is_read_times_that_of_its_weights() -> None:
    model = hidden(7)
    seen = seen_of(model)
    a, b = (n.inputs[1].values for n in model.graph.nodes)
    h = np.concatenate([feed["x"][0] @ a for feed in seen.samples.feeds()])
    wanted = np.sqrt((h**2).mean(0) * (b**2).sum(1))
    found = scores("activation", only(model), seen)
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-4)


def test_fisher_is_the_squared_change_of_the_outputs() -> None:
    model = hidden(7)
    seen = seen_of(model)
    a, b = (n.inputs[1].values for n in model.graph.nodes)
    wanted = np.zeros(5)
    for feed in seen.samples.feeds():
        h = feed["x"][0] @ a
        wanted += [(np.outer(h[:, j], b[j]) ** 2).sum() / ((h @ b) ** 2).sum() for j in range(5)]
    found = scores("fisher", only(model), seen)
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-3)
    assert seen.runs == 8 * (5 + 1)


def test_fisher_of_class_scores_keeps_what_decides() -> None:
    model = hidden(classes=True)
    found = scores("fisher", only(model), seen_of(model, 32))
    assert found.argmin() == 2
    assert found[2] < 0.1


def test_taylor_is_the_slope_of_the_loss() -> None:
    model = hidden(classes=True)
    seen = seen_of(model, 32)
    a, b = (n.inputs[1].values for n in model.graph.nodes[:2])
    slopes = np.zeros(5)
    for feed in seen.samples.feeds():
        h = (feed["x"] @ a)[0]
        p = np.exp(h @ b) / np.exp(h @ b).sum()
        slopes += (np.eye(3)[p.argmax()] - p) @ (h[:, None] * b).T
    wanted = abs(slopes) / abs(slopes).mean()
    found = scores("taylor", only(model), seen)
    np.testing.assert_allclose(found, wanted, atol=0.3)


def test_gates_of_heads_and_of_shared_weights() -> None:
    for build in (topologies.gqa, topologies.shared):
        model = Model.from_proto(build())
        seen = seen_of(model, 1)
        for group in analyse(model).free[:3]:
            found = scores("fisher", group, seen)
            assert (found > 0).all()


def test_a_group_that_no_layer_reads_is_left_whole() -> None:
    model = Model.from_proto(topologies.gqa())
    dims = next(g for g in analyse(model).free if g.head and not g.consumers)
    assert scores("activation", dims, seen_of(model)) is None


def test_criteria_on_samples_ask_for_them() -> None:
    model = hidden()
    with pytest.raises(SamplesError, match="--calib"):
        scores("taylor", only(model), Seen(model))


@pytest.mark.parametrize("name", ["activation", "taylor", "fisher"])
def test_the_pass_takes_them_and_says_what_they_cost(name) -> None:
    model = hidden(7)
    samples = synthetic(model.export().inputs, n=6)
    ctx = Context(calibration=samples)
    item = Prune(ratio=0.4, criterion=name, compensate="none", align="none")
    assert item.run(model, ctx) == 1
    assert any("36 times" in note for note in ctx.notes) == (name != "activation")
    kept = {t.shape for n in model.graph.nodes for t in n.inputs[1:2]}
    assert kept == {(6, 3), (3, 3)}


def test_own_criteria_see_the_model(monkeypatch) -> None:
    model = hidden()
    monkeypatch.setattr("prune.net.mine", lambda group, seen: np.arange(group.size), raising=False)
    found = scores("prune.net:mine", only(model), Seen(model))
    np.testing.assert_allclose(found, np.arange(5) / 2)

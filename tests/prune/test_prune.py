import json

import numpy as np
import onnx
import pytest
from onnx import helper
from prune import sequences, topologies

import onnxopt
from onnxopt.base import Context
from onnxopt.errors import BudgetError, OnnxoptError
from onnxopt.model import Model
from onnxopt_passes.prune.prune import Prune


def run(build, item, denied=()):
    model = Model.from_proto(build())
    made = {}
    ctx = Context(
        allow=lambda name: name not in denied and not made.update({name: 1}),
        retract=made.pop,
    )
    edits = item.run(model, ctx)
    assert edits == len(made)
    return model, edits, ctx


def widths(ctx):
    return {g["name"]: (g["before"], g["after"]) for g in ctx.evidence["groups"]}


def test_a_ratio_without_samples():
    model, edits, ctx = run(topologies.resnet, Prune(ratio=0.5))
    assert edits == len(ctx.evidence["groups"])
    assert all(after == before // 2 for before, after in widths(ctx).values())
    assert all(0 < g["score"] < 0.5 for g in ctx.evidence["groups"])
    assert ctx.evidence["certificate"]["groups"] == edits
    assert ctx.evidence["certificate"]["max_drift"] < 2e-6
    assert any("no layer is fitted anew" in note for note in ctx.notes)
    assert model.export().nbytes < Model.from_proto(topologies.resnet()).export().nbytes / 2


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_budget_is_met_by_count(kind):
    before = onnxopt.Model.from_proto(topologies.mobilenet_v2())
    model, _, _ = run(topologies.mobilenet_v2, Prune(**{kind: 0.6}))
    from onnxopt import cost

    share = getattr(cost.measure(model.export()), kind) / getattr(
        cost.measure(before.export()), kind
    )
    assert 0.4 < share <= 0.6


@pytest.mark.parametrize("how", ["", ":compensate=none:criterion=l1"])
def test_a_budget_that_cannot_be_met_ends_the_run_with_nothing_written(tmp_path, how):
    x = np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32)
    with pytest.raises(BudgetError, match=r"^macs=0.001 cannot be met: "):
        onnxopt.optimize(
            topologies.plain(),
            f"prune:macs=0.001{how}",
            calibration=[{"x": v[None]} for v in x],
            output=tmp_path / "out.onnx",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "why"),
    [("exclude=*", "named by exclude="), ("min_channels=4096", "no wider than min_channels=4096")],
)
def test_a_budget_is_refused_where_nothing_may_be_cut(tmp_path, options, why):
    with pytest.raises(BudgetError, match=f"^macs=0.9 cannot be met: no width may be cut: .*{why}"):
        onnxopt.optimize(
            topologies.plain(),
            f"prune:macs=0.9:{options}",
            allow_synthetic=True,
            output=tmp_path / "out.onnx",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn", "random"])
def test_criteria_keep_what_weighs_most(criterion):
    _, edits, _ = run(topologies.resnet_bn, Prune(ratio=0.5, criterion=criterion))
    assert edits


def test_l1_keeps_the_large_channels():
    model = Model.from_proto(topologies.plain())
    weight = next(t for n in model.graph.nodes if n.op == "Conv" for t in n.inputs[1:2])
    values = np.array(weight.values)
    values[::2] /= 1000
    weight.values = values
    Prune(ratio=0.5, criterion="l1").run(model, Context())
    first = next(n for n in model.graph.nodes if n.op == "Conv").inputs[1]
    np.testing.assert_array_equal(first.values, values[1::2])


def test_types_that_a_file_lists_for_its_weights_follow():
    proto = topologies.plain()
    listed = [
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in proto.graph.initializer
    ]
    proto.graph.value_info.extend(listed)
    model = Model.from_proto(proto)
    assert Prune(ratio=0.5).run(model, Context())
    onnx.checker.check_model(model.to_proto(), full_check=True)


def test_a_denied_group_stays_whole():
    _, _, ctx = run(topologies.resnet, Prune(ratio=0.5))
    name = ctx.evidence["groups"][0]["name"]
    _, _, ctx = run(topologies.resnet, Prune(ratio=0.5), denied={f"group@{name}"})
    assert name not in widths(ctx)


def test_heads_go_whole_unless_asked():
    _, _, ctx = run(topologies.vit, Prune(ratio=0.5))
    assert all(before != 16 for before, _ in widths(ctx).values())
    assert (4, 2) in widths(ctx).values()
    assert any("heads=any" in reason for reason in ctx.untouched.values())
    _, _, ctx = run(topologies.vit, Prune(ratio=0.5, heads="any"))
    assert (16, 8) in widths(ctx).values()


def test_include_exclude_and_least_width():
    _, _, ctx = run(topologies.plain, Prune(ratio=0.5, exclude=("w0",), min_channels=40))
    assert set(widths(ctx).values()) == {(64, 40)}
    assert ctx.untouched["w0"].startswith("no wider than")
    _, edits, ctx = run(topologies.plain, Prune(ratio=0.5, include=("w2*",)))
    assert edits == 1


def test_a_plan_is_written_and_read_back(tmp_path):
    path = tmp_path / "plan.json"
    item = Prune(ratio=0.5, plan=str(path))
    first, _, _ = run(topologies.resnet, item)
    again, _, _ = run(topologies.resnet, item)
    assert first.to_proto() == again.to_proto()
    entries = json.loads(path.read_text())
    name = next(iter(entries["groups"]))
    entries["groups"] = {name: {"keep": [1, 2]}}
    path.write_text(json.dumps(entries))
    _, edits, ctx = run(topologies.resnet, item)
    assert edits == 1
    assert widths(ctx)[name][1] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "no plan"),
        ('{"groups": {"nobody": {"keep": [0]}}}', "no group"),
        ('{"groups": {"w0": {"keep": [99]}}}', "indices"),
        ('{"groups": {"w0": {"keep": []}}}', "no index"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(OnnxoptError, match=said):
        run(topologies.plain, Prune(ratio=0.5, plan=str(path)))


def test_two_budgets_are_refused():
    with pytest.raises(ValueError, match="one of"):
        Prune(ratio=0.5, macs=0.5)
    with pytest.raises(ValueError, match="between"):
        Prune(ratio=1.5)


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="no criterion is named 'l3'"):
        Prune(ratio=0.5, criterion="l3")


def test_two_runs_give_the_same_bytes():
    first, _, _ = run(topologies.c2f, Prune(ratio=0.4, criterion="random"))
    again, _, _ = run(topologies.c2f, Prune(ratio=0.4, criterion="random"))
    assert first.to_proto().SerializeToString(
        deterministic=True
    ) == again.to_proto().SerializeToString(deterministic=True)


def test_samples_choose_and_fit():
    model = topologies.plain()
    x = np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32)
    result = onnxopt.optimize(
        model,
        passes="prune:ratio=0.25:align=none",
        calibration=[{"x": v[None]} for v in x],
        max_drop=0.9,
    )
    assert result.report["steps"][-1]["edits"] == 3
    certificate = result.report["proof"]["certificate"]["prune:ratio=0.25:align=none"]
    assert certificate["groups"] == 3
    assert certificate["max_drift"] < 2e-6


def test_the_survey_counts_macs_on_drawn_inputs_where_shapes_are_open():
    found = Prune().survey(Model.from_proto(sequences.decoder()), Context())
    assert 0.3 < found["reach_macs"] < 1


def test_the_survey_says_what_is_frozen_and_how_far_pruning_reaches():
    found = Prune().survey(Model.from_proto(topologies.plain()), Context())
    assert 0.9 < found["reach_params"] < 1
    assert 0.9 < found["reach_macs"] < 1
    by_name = {g["name"]: g for g in found["groups"]}
    assert by_name["w2"]["frozen"] is None
    assert any("model output" in (g["frozen"] or "") for g in found["groups"])


@pytest.mark.parametrize("options", [{}, {"latency": 0.7}])
def test_a_cut_that_is_not_fitted_has_a_budget_that_can_be_counted(options):
    with pytest.raises(ValueError, match="compensate=none takes ratio="):
        Prune(compensate="none", **options)

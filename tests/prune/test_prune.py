"""The pass from options to a cut, certified and reported model."""

import pytest
from residual import residual, samples_of

from onnxopt import Context, Model, cost, spec
from onnxopt.bisect import Gate
from onnxopt.errors import SpecError
from onnxopt_passes.prune import widths
from onnxopt_passes.prune.channels import Prune


@pytest.fixture(autouse=True)
def step(monkeypatch):
    monkeypatch.setattr(widths, "step", lambda family, threads=1: 1)


def run(item: Prune, **given) -> tuple[Model, int, Context, Gate]:
    gate = Gate(**given)
    ctx = Context(samples_of(30), allow=gate, retract=gate.retract)
    model = residual()
    edits = item.run(model, ctx)
    return model.clone(), edits, ctx, gate


def test_half_of_each_group():
    model, edits, ctx, gate = run(Prune(ratio=0.5))
    assert edits == len(gate.made) == 2
    assert ctx.evidence["certificate"]["groups"] == 2
    assert ctx.evidence["certificate"]["max_drift"] < 1e-5
    assert {g["width"] / g["size"] for g in ctx.evidence["groups"].values()} == {0.5}
    params = [cost.measure(m.export()).params for m in (model, residual())]
    assert params[0] < 0.35 * params[1]


def test_macs_are_left_as_asked():
    model, _, _, _ = run(Prune(macs=0.6))
    macs = [cost.measure(m.export()).macs for m in (model, residual())]
    assert 0.45 < macs[0] / macs[1] <= 0.61


def test_groups_may_be_excluded_or_denied():
    _, edits, ctx, gate = run(Prune(ratio=0.5, exclude=("w1",)))
    assert edits == 1
    assert list(gate.made) == ["prune@w0"]
    assert ctx.untouched["w1"] == "excluded"
    _, edits, _, gate = run(Prune(ratio=0.5), denied=frozenset({"prune@w0"}))
    assert list(gate.made) == ["prune@w1"]


def test_two_runs_give_the_same_bytes():
    first, second = (run(Prune(ratio=0.25))[0].export().whole() for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("options", ["ratio=1.5", "ratio=0.5:macs=0.5", "min_channels=0"])
def test_options_are_checked(options):
    with pytest.raises(SpecError):
        spec.parse(f"prune:{options}")

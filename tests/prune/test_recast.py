"""Groups in blocks: recast exactly, and then cut where each block can spare it."""

import json

import numpy as np
import pytest
from prune import convolutions, sequences, topologies
from prune.net import Net

from onnxopt.base import Context
from onnxopt.errors import SamplesError, SpecError
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.certificate import Certifier
from onnxopt_passes.prune.observe import drawn, observe
from onnxopt_passes.prune.prune import Prune
from onnxopt_passes.prune.recast import recast


def recast_all(proto):
    model = Model.from_proto(proto)
    samples = synthetic(model.export().inputs, n=16)
    observed = observe(model, drawn(model), Settings())
    certifier = Certifier(model, list(samples.feeds())[:3], Settings(), observed)
    names = [g.name for g in analyse(model, observed=observed).groups if g.frozen is None]
    made = recast(model, names, samples, Settings(True), observed, certifier.differs)
    return made, certifier


@pytest.mark.parametrize(
    ("build", "ordered", "turned"),
    [
        (topologies.shufflenet, 3, 0),
        (topologies.grouped, 3, 0),
        (convolutions.regnet, 4, 0),
        (topologies.vit, 0, 4),
        (topologies.vit_fused, 0, 2),
        (topologies.gqa, 0, 1),
        (sequences.decoder, 0, 2),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_recast_model_computes_the_same_and_can_be_cut(build, ordered, turned):
    made, certifier = recast_all(build())
    assert (len(made.orders), len(made.turned)) == (ordered, turned)
    assert certifier.differs(made.model) is None
    keep = {
        name: np.arange(group.size) < group.size // 2
        for group in analyse(made.model, observed=certifier.observed).free
        if (name := group.name) in (*made.orders, *made.turned)
    }
    proven, certificate = certifier.of(made.model).certify(keep)
    assert proven.keys() == keep.keys(), certificate.guilty


def grouped():
    """Return a Conv with groups that reads channels 2, 3, 4 and 5 of two times four."""
    n = Net(1, 3, 6, 6)
    x = n.relu(n.conv("x", 3, 8, 1))
    weight = n.rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    weight[:3, :2] = 0
    weight[3:, 2:] = 0
    y = n.op("Conv", x, n.const(weight), n.weight(6), group=2, pads=[1] * 4)
    return n.build(n.head(n.relu(y), 6))


def attention(split=False):
    """Return heads of width 16 whose products of queries and keys have rank 8."""
    n = Net(1, 9, 32)
    d, h = 32, 2

    def low():
        wide = [n.rng.normal(size=(d, 8)) @ n.rng.normal(size=(8, 16)) / 16 for _ in range(h)]
        return np.concatenate(wide, axis=1)

    k, q, v = n.rng.normal(size=(d, d)) / 8, low(), n.rng.normal(size=(d, d)) / 6
    if split:
        whole = n.const(np.concatenate([k, q, v], axis=1).astype(np.float32))
        sizes = n.ints(d, d, d)
        k, q, v = n.op("Split", n.op("MatMul", "x", whole), sizes, outputs=3, axis=-1)
    else:
        k, q, v = (n.op("MatMul", "x", n.const(w.astype(np.float32))) for w in (k, q, v))
    k, q, v = (n.op("Transpose", n.reshape(t, 1, 9, h, 16), perm=[0, 2, 1, 3]) for t in (k, q, v))
    s = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2]))
    o = n.op("MatMul", n.op("Softmax", s, axis=-1), v)
    return n.build(n.linear(n.reshape(n.op("Transpose", o, perm=[0, 2, 1, 3]), 1, 9, d), d, 5))


def cut(proto, **options):
    model = Model.from_proto(proto)
    samples = synthetic(model.export().inputs, n=60)
    ctx = Context(calibration=samples)
    edits = Prune(**options).run(model, ctx)
    feed = next(synthetic(model.export().inputs, seed=7, n=1).feeds())
    before, after = (
        Session(m.export(), Settings()).run(feed) for m in (Model.from_proto(proto), model)
    )
    name = next(iter(before))
    error = np.abs(before[name] - after[name]).max() / np.abs(before[name]).max()
    return model, edits, ctx, float(error)


def test_other_channels_go_in_each_block():
    _, edits, ctx, error = cut(grouped(), ratio=0.5, include=("w0#2",), align="none")
    assert edits == 1
    assert ctx.evidence["recast"] == {"w0#2": "blocks ordered"}
    assert error < 1e-5


@pytest.mark.parametrize("split", [False, True])
def test_a_head_loses_the_width_that_its_products_do_not_have(split):
    model, edits, ctx, error = cut(
        attention(split), ratio=0.5, include=("w0#3",), heads="any", align="none"
    )
    assert edits == 1, ctx.untouched
    assert "basis sorted" in ctx.evidence["recast"].values()
    assert error < 1e-3  # 0.3 without the basis
    assert model.export().nbytes < Model.from_proto(attention(split)).export().nbytes


def test_a_width_that_a_table_has_by_itself_is_one_for_all_heads():
    made, _ = recast_all(sequences.rotary())
    assert made.turned == ("w6",)  # the values; queries and keys are turned by tables


def test_a_plan_has_the_indices_of_each_block(tmp_path):
    path = tmp_path / "plan.json"
    options = {"include": ("w0#2",), "align": "none", "compensate": "none"}
    cut(grouped(), ratio=0.5, include=("w0#2",), align="none", plan=str(path))
    written = json.loads(path.read_text())
    assert written["groups"]["w0#2"]["keep"] == [[2, 3], [0, 1]]
    _, edits, _, error = cut(grouped(), plan=str(path), **options)
    assert edits == 1
    assert error < 1e-5

    written["groups"]["w0#2"]["keep"] = [[2, 3], [0]]
    path.write_text(json.dumps(written))
    with pytest.raises(SpecError, match="more indices in one block than in another"):
        cut(grouped(), plan=str(path), **options)
    written["groups"]["w0#2"]["keep"] = [[2, 3]] * 3
    path.write_text(json.dumps(written))
    with pytest.raises(SpecError, match="3 blocks"):
        cut(grouped(), plan=str(path), **options)


def test_a_sorted_basis_of_a_plan_needs_samples(tmp_path):
    path = tmp_path / "plan.json"
    options = {"include": ("w0#3",), "align": "none", "heads": "any"}
    cut(attention(), ratio=0.5, plan=str(path), **options)
    assert json.loads(path.read_text())["groups"]["w0#3"]["basis"] == "sorted"
    *_, error = cut(attention(), plan=str(path), **options)
    assert error < 1e-3  # 0.3 without the basis
    model = Model.from_proto(attention())
    with pytest.raises(SamplesError, match="give the --calib samples"):
        Prune(plan=str(path), **options).run(model, Context())

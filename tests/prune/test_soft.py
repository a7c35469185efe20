"""Widths over which means are taken: cut on demand, certified against means of what stays."""

import numpy as np
import pytest
from prune import convolutions, sequences, topologies
from prune.net import Net
from prune.test_topologies import half

import onnxopt
from onnxopt import cost
from onnxopt.base import Context
from onnxopt.errors import OnnxoptError
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.certificate import Certifier
from onnxopt_passes.prune.cut import cut
from onnxopt_passes.prune.prune import Prune


def newer(model):
    """The same model in opset 18, where axes are an input of ReduceMean."""
    import onnx.version_converter

    return onnx.version_converter.convert_version(model, 18)


def norm_of_parts():
    return newer(sequences.decoder())


SOFT = {
    topologies.vit: 0.27,
    topologies.group_norm: 0.27,
    sequences.conformer: 0.32,
    sequences.decoder: 0.27,
    norm_of_parts: 0.27,
    convolutions.convnext: 0.36,
}
"""Networks, and the share of parameters that half of each group leaves, soft ones too."""


@pytest.mark.parametrize("build", SOFT, ids=lambda f: f.__name__)
def test_half_of_each_group_is_certified(build):
    model = Model.from_proto(build())
    analysis = analyse(model, soft=True)
    assert any(g.soft for g in analysis.free)
    keep = half(analysis)
    feeds = list(synthetic(model.export().inputs, n=3).feeds())
    proven, certificate = Certifier(model, feeds, Settings()).certify(keep)
    assert proven.keys() == keep.keys(), certificate.guilty
    assert certificate.drift <= 2e-6
    sliced = model.clone()
    cut(analyse(sliced), keep)
    share = cost.measure(sliced.export()).params / cost.measure(model.export()).params
    assert share <= SOFT[build], f"{share:.4f} of the parameters are left"


def test_they_are_frozen_unless_asked():
    model = Model.from_proto(topologies.vit())
    frozen = next(g for g in analyse(model).groups if g.soft is not None)
    assert frozen.frozen == frozen.soft
    assert "mean or variance" in frozen.soft


def test_without_reconstruction_they_are_refused():
    with pytest.raises(ValueError, match="compensate=ls"):
        Prune(ratio=0.5, soft=True, compensate="none")
    with pytest.raises(OnnxoptError, match="--calib"):
        Prune(ratio=0.5, soft=True).run(Model.from_proto(topologies.vit()), Context())


def normalized():
    """Twelve features that depend on four, normalized before a layer reads them."""
    n = Net(1, 4)
    x = n.layer_norm(n.op("MatMul", "x", n.weight(4, 12)), 12)
    return n.build(n.linear(x, 12, 3))


def test_what_a_soft_cut_changes_is_made_up_for():
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    feeds = [{"x": v[None]} for v in x]
    model = normalized()
    text = "prune:ratio=0.25:soft=true:align=none"
    result = onnxopt.optimize(model, passes=text, calibration=feeds, max_drop=0.9)
    step = result.report["steps"][-1]
    assert step["edits"] == 1
    assert any("means taken over what stays" in note for note in step["notes"])

    plain = Model.from_proto(model)
    (group,) = analyse(plain, soft=True).free
    cut(analyse(plain), {group.name: np.arange(12) < 9})
    whole, fitted, sliced = (
        Session(m.export())
        for m in (Model.from_proto(model), Model.from_proto(result.model), plain)
    )

    def distance(session):
        pairs = [(next(iter(s.run(f).values())) for s in (whole, session)) for f in feeds]
        return sum(float(((a - b) ** 2).sum()) for a, b in pairs)

    assert distance(fitted) < 0.5 * distance(sliced)

import numpy as np
import onnx
import pytest
from prune import convolutions, sequences, topologies

from onnxopt import cost
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.samples import synthetic
from onnxopt_passes.clean import Clean
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.certificate import Certifier
from onnxopt_passes.prune.cut import cut
from onnxopt_passes.prune.observe import drawn, observe

ALL = {**topologies.LISTED, **convolutions.FURTHER, **sequences.FURTHER}


def half(analysis, seed=0):
    rng = np.random.default_rng(seed)
    keep = {}
    for group in analysis.free:
        stays = np.zeros(group.size, bool)
        stays[rng.permutation(group.size)[: (group.size + 1) // 2]] = True
        keep[group.name] = stays
    return keep


@pytest.mark.parametrize("build", ALL, ids=lambda f: f.__name__)
def test_half_of_each_group_is_certified(build):
    model = Model.from_proto(build())
    Clean().run(model, Context())
    observed = observe(model, drawn(model), Settings())
    keep = half(analyse(model, observed=observed))
    feeds = list(synthetic(model.export().inputs, n=3).feeds())
    proven, certificate = Certifier(model, feeds, Settings(), observed).certify(keep)
    assert proven.keys() == keep.keys(), certificate.guilty
    assert certificate.inputs == 3
    assert certificate.drift <= 1e-6

    before = cost.measure(model.export()).params
    sliced = model.clone()
    cut(analyse(sliced, observed=observed), keep)
    exported = sliced.export()
    onnx.checker.check_model(exported.whole(), full_check=True)
    share = cost.measure(exported).params / before
    assert share <= ALL[build], f"{share:.4f} of the parameters are left"

"""Parts of a model, run one after the other, compute what the whole computes."""

import numpy as np
import onnx.parser
import pytest

from onnxopt import Model
from onnxopt.runtime import CannotRun
from onnxopt.samples import synthetic
from onnxopt.statistics import Stages, Tap
from onnxopt.statistics.dependence import Dependence, levels
from onnxopt.testing import fill

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x, bool c) => (float[N,3] y) <float[3,3] v, float[3,3] w>
{
   a = MatMul(x, v)
   k = Constant<value = float[1] {2.0}>()
   s = Mul(a, k)
   i = If(c) <then_branch = t () => (float[M,3] p) { p = Add(a, x) },
              else_branch = e () => (float[M,3] q) { q = Sub(a, s) }>
   b = MatMul(i, w)
   r = Add(b, s)
   y = Mul(r, k)
}
"""


@pytest.fixture
def model() -> Model:
    return Model.from_proto(fill(onnx.parser.parse_model(TEXT)))


def tensors(model: Model) -> dict:
    return {t.name: t for n in model.graph.nodes for t in n.outputs}


def feeds(model: Model) -> list:
    return [s.feed for s in synthetic(model.export().inputs, n=4)]


def test_stages_compute_what_the_model_computes(model):
    known = tensors(model)
    x = model.graph.inputs[0]
    wanted = [[known["a"], x], [known["i"], known["a"]], [], [known["b"], known["y"], known["k"]]]
    stages = Stages(model, wanted, feeds(model))
    for names in wanted:
        tap = Tap(model, names)
        ran = list(stages.run())
        assert len(ran) == 4
        for values, feed in zip(ran, feeds(model), strict=True):
            for got, want in zip(values, tap(feed), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weights_may_change_between_stages(model):
    known = tensors(model)
    w = next(n for n in model.graph.nodes if n.outputs[0].name == "b").inputs[1]
    stages = Stages(model, [[known["i"]], [known["b"]]], feeds(model))
    before = [values[0] for values in stages.run()]
    w.values = np.eye(3, dtype=np.float32)
    after = [values[0] for values in stages.run()]
    for i, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, i, rtol=1e-6)


def test_a_model_is_not_cut_at_a_sequence():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3] x) => (float[N,3] y) {
       s = SequenceConstruct(x, x)
       zero = Constant<value = int64 {0}>()
       y = SequenceAt(s, zero)
    }"""
    model = Model.from_proto(onnx.parser.parse_model(text))
    known = tensors(model)
    stages = Stages(model, [[known["s"]], [known["y"]]], feeds(model))
    assert len(list(stages.run())) == 4
    with pytest.raises(CannotRun, match="'s' is no tensor"):
        list(stages.run())


def test_levels_follow_the_data(model):
    known = tensors(model)
    a, b = (known[name].inputs[0] for name in "ab")
    assert levels(model.graph, [b, a]) == [[a], [b]]
    dependence = Dependence([a, b])
    assert dependence.of(known["i"]) == {id(a)}
    assert dependence.of(known["y"]) == {id(a), id(b)}
    assert dependence.of(known["k"]) == frozenset()

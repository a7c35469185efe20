import numpy as np
import onnx.parser

from onnxopt import Model
from onnxopt.samples import synthetic
from onnxopt.statistics import Tap
from onnxopt.testing import fill

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x) => (float[N,2] y) <float[3,2] w>
{
   p = MatMul(x, w)
   r = Relu(p)
   y = Neg(r)
}
"""


def test_tap_reads_inputs_constants_and_inner_tensors():
    model = Model.from_proto(fill(onnx.parser.parse_model(TEXT)))
    matmul, relu, neg = model.graph.nodes
    tensors = [relu.outputs[0], matmul.inputs[0], matmul.inputs[1], neg.outputs[0]]
    tap = Tap(model, tensors)
    samples = list(synthetic(model.export().inputs, n=3))
    for sample, (r, x, w, y) in zip(samples, tap.over(samples), strict=True):
        assert np.array_equal(x, sample.feed["x"])
        np.testing.assert_allclose(r, np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)
        assert np.array_equal(y, -r)
    assert [o.name for o in model.graph.outputs] == ["y"], "the model was not changed"

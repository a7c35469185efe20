import onnx.parser
import pytest

from onnxopt import Model, cost
from onnxopt.testing import fill

BODY = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[%s,4] x, bool c) => (float[%s,2] y) <float[4,2] w>
{
   y = If (c) <
     then_branch = t () => (float[batch,2] a) {
        [m] a = MatMul(x, w)
     },
     else_branch = e () => (float[batch,2] b) {
        s = MatMul(x, w)
        r = Softmax(s)
        b = Relu(r)
     }
   >
}
"""


@pytest.mark.parametrize("size", ["N", "-1", "?"])
def test_macs_where_the_batch_is_open_and_bodies_list_stale_shapes(size):
    proto = fill(onnx.parser.parse_model(BODY % (("N", "N"))))
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if size == "-1":
        dim.dim_value = -1
    elif size == "N":
        dim.dim_param = size
    found = cost.measure(Model.from_proto(proto).export(), None)
    assert found.macs == 4 * 2
    assert found.params == 8

"""A run that asks for it fails where quantization finds nothing to do, and says why."""

import numpy as np
import pytest

import onnxopt
from onnxopt.errors import NoopError

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8] x) => (float[1,8] y) { y = Relu(x) }"""


def test_nothing_to_quantize(model, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).normal(0, 1, (20, 8)).astype(np.float32))
    built = model(TEXT)
    with pytest.raises(NoopError, match=r"quant changed nothing.*no convolution"):
        onnxopt.optimize(built, "quant", str(path), fail_on_noop=True, timing=False)
    assert onnxopt.optimize(built, "quant", str(path), timing=False).steps[-1].edits == 0

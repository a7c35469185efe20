"""Models whose weights are in a temporary file."""

from __future__ import annotations

import gc
import tempfile

import numpy as np
import onnx.parser
import pytest

from onnxopt.model import Model
from onnxopt.model.mapped import mapped

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proto = onnx.parser.parse_model(TEXT)
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return Model.from_proto(proto)


def test_it_is_the_same_and_its_file_goes_with_it(model, tmp_path):
    found = mapped(model)
    assert list(tmp_path.iterdir())
    assert found.to_proto().SerializeToString() == model.to_proto().SerializeToString()
    del found
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_where_it_cannot_be_written(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Model, "save", full)
    with pytest.raises(OSError, match="no space"):
        mapped(model)
    assert not list(tmp_path.iterdir())

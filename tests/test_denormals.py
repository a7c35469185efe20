"""Weights so small that a processor slows down over them become zero; other constants stay.

Not among the case files: onnx's text parser refuses such numbers up to version 1.22.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxopt import Context, Model, registry

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y)
{
   y = %s(x, w)
}
"""


def cleaned(op: str, values: np.ndarray) -> tuple[np.ndarray, int]:
    proto = onnx.parser.parse_model(TEXT % op)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    model = Model.from_proto(proto)
    edits = registry.load("clean")().run(model, Context())
    return numpy_helper.to_array(model.to_proto().graph.initializer[0]), edits


def test_denormal_weights_become_zero() -> None:
    weight = np.array([[1.0, 1e-40], [-1e-41, 0.5]], np.float32)
    got, edits = cleaned("MatMul", weight)
    assert np.array_equal(got, np.array([[1.0, 0.0], [0.0, 0.5]], np.float32))
    assert edits == 1


def test_the_smallest_normal_number_stays() -> None:
    weight = np.full((2, 2), np.finfo(np.float32).tiny)
    got, edits = cleaned("MatMul", weight)
    assert np.array_equal(got, weight)
    assert edits == 0


@pytest.mark.parametrize("op", ["Max", "Add", "Div"])
def test_what_is_no_weight_stays(op: str) -> None:
    epsilon = np.array([1e-40, 1e-41], np.float32)
    got, edits = cleaned(op, epsilon)
    assert np.array_equal(got, epsilon)
    assert edits == 0

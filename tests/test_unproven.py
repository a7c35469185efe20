"""What cannot be run or compared: passed through with the reason, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx.parser
import pytest
from identities import chain, drop

import onnxopt
from onnxopt import Context, Model, Pass, Rule, rewrite
from onnxopt.errors import UnprovenError

CUSTOM = """
<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
g (float[N,8] x) => (float[N,8] y)
{
  a = Identity(x)
  b = acme.Secret(a)
  y = Relu(b)
}
"""


@dataclass(frozen=True)
class Drop(Pass):
    """Drops Identity nodes."""

    name: ClassVar[str] = "drop"

    def run(self, model: Model, ctx: Context) -> int:
        return rewrite.apply(model, (Rule("drop", ("Identity",), drop),), ctx)


def test_a_custom_op_is_handled_without_proof_and_the_report_says_so() -> None:
    proto = onnx.parser.parse_model(CUSTOM)
    result = onnxopt.optimize(proto, (Drop(),), timing=False)
    assert [n.op_type for n in result.model.graph.node] == ["Secret", "Relu"]
    assert result.report["proof"]["proven"] is False
    assert "onnxruntime cannot run the source" in result.report["proof"]["reason"]


def test_require_proof_refuses_what_cannot_be_run() -> None:
    with pytest.raises(UnprovenError, match="cannot be compared"):
        onnxopt.optimize(onnx.parser.parse_model(CUSTOM), (Drop(),), require_proof=True)


@dataclass(frozen=True)
class Lossy(Pass):
    """A lossy pass that does nothing."""

    name: ClassVar[str] = "lossy"
    exact: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> int:
        return 0


def test_lossy_passes_refuse_what_cannot_be_proven() -> None:
    feeds = [{"x": np.ones((1, 8), np.float32)}] * 4
    with pytest.raises(UnprovenError):
        onnxopt.optimize(onnx.parser.parse_model(CUSTOM), (Lossy(),), feeds)


def test_lossy_passes_refuse_drawn_inputs() -> None:
    with pytest.raises(onnxopt.OnnxoptError, match=r"needs calibration data: .* --allow-synthetic"):
        onnxopt.optimize(chain(), (Lossy(),))


def test_an_opset_of_the_future_passes_through_unproven() -> None:
    proto = chain(3)
    proto.opset_import[0].version = 99
    result = onnxopt.optimize(proto, (Drop(),), timing=False)
    assert result.report["proof"]["proven"] is False
    assert "99" in result.report["proof"]["reason"]


RANDOM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,8] y, float[4] noise)
{
  a = Identity(x)
  y = Relu(a)
  noise = RandomNormal<shape: ints = [4]>()
}
"""


def test_an_output_that_is_random_is_not_compared_and_named() -> None:
    result = onnxopt.optimize(onnx.parser.parse_model(RANDOM), (Drop(),), timing=False)
    assert result.report["proof"]["not_compared"] == ["noise"]
    assert result.steps[0].undone == ()

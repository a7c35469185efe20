"""mode=weights: integers in the file, floats in the kernels, the same answers up to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxopt import Model, cost, spec
from onnxopt.base import Context
from onnxopt.runtime import Session, Settings
from onnxopt.samples import synthetic
from onnxopt.testing import fill

MODELS = Path(__file__).parents[2] / "models"

LAYERS = """
<ir_version: 10, opset_import: ["" : %d]>
g (float[N,4,8,8] x, int64[M] ids) => (float[N,10,5,5] y, float[M,64] e, float[M,32] p)
   <float[48,4,3,3] w1, float[10,48,2,2] w2, float[100,64] table, float[64,32] matrix>
{
   c = Conv(x, w1)
   r = Relu(c)
   y = Conv(r, w2)
   e = Gather(table, ids)
   p = MatMul(e, matrix)
}
"""


def weights_only(proto: onnx.ModelProto, options: str) -> tuple[Model, Context, int]:
    model = Model.from_proto(proto)
    ctx = Context()
    (item,) = spec.parse(f"quant:mode=weights{options}")
    edits = item.run(model, ctx)
    onnx.checker.check_model(model.to_proto(), full_check=True)
    return model, ctx, edits


def noise(before: onnx.ModelProto, model: Model, optimize: bool) -> float:
    """Return the largest relative error of any output, root mean square over samples."""
    source = Model.from_proto(before).export()
    sessions = [Session(m, Settings(optimize=optimize)) for m in (source, model.export())]
    worst = 0.0
    for sample in synthetic(source.inputs, n=3):
        want, got = (s.run(sample.feed) for s in sessions)
        for name, value in want.items():
            error = np.linalg.norm(got[name] - value) / np.linalg.norm(value)
            worst = max(worst, float(error))
    return worst


@pytest.mark.parametrize("opset", [8, 13, 21])
@pytest.mark.parametrize(
    ("options", "limit", "size"),
    [
        ("", 0.02, 0.33),
        (":weights=uint8", 0.02, 0.33),
        (":weights=int16", 0.0002, 0.55),
        (":granularity=tensor", 0.03, 0.33),
        (":granularity=block:block=32", 0.02, 0.4),
        (":weights=int4", 0.25, 0.35),
        (":weights=uint4:symmetric=false:block=16", 0.25, 0.35),
    ],
)
def test_each_form_is_small_and_close(opset: int, options: str, limit: float, size: float) -> None:
    proto = fill(onnx.parser.parse_model(LAYERS % opset))
    model, ctx, edits = weights_only(proto, options)
    assert edits == 4
    assert not ctx.untouched
    assert model.export().nbytes < size * proto.ByteSize() + 3000
    for optimize in (False, True):
        error = noise(proto, model, optimize)
        assert 0 < error < limit


def test_kernels_see_floats_once_loaded() -> None:
    proto = fill(onnx.parser.parse_model(LAYERS % 17))
    model, _, _ = weights_only(proto, "")
    ops = cost.measure(model.export()).ops
    assert "DequantizeLinear" not in ops, "onnxruntime would run it at each inference"
    assert ops["Cast"] >= 4


def test_what_cannot_be_rounded_is_listed() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2000] x) => (float[N,2000] y, float[2000] z) <float[2000] k, float[2000] z>
    {
       s = Add(x, k)
       y = Mul(s, z)
    }
    """
    _, ctx, edits = weights_only(fill(onnx.parser.parse_model(text)), "")
    assert edits == 0
    assert set(ctx.untouched) == {"k", "z"}
    assert "not as a weight" in ctx.untouched["k"]


def test_tied_weights_stay_tied() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (int64[M] ids) => (float[M,100] y) <float[100,64] table>
    {
       e = Gather(table, ids)
       t = Transpose<perm = [1, 0]>(table)
       y = MatMul(e, t)
    }
    """
    proto = fill(onnx.parser.parse_model(text))
    model, _, edits = weights_only(proto, "")
    assert edits == 1
    stored = [t for t in model.to_proto().graph.initializer if np.prod(t.dims) >= 6400]
    assert [t.data_type for t in stored] == [onnx.TensorProto.INT8]
    assert noise(proto, model, optimize=True) < 0.03


def test_branches_are_entered() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x, bool c) => (float[N,32] y) <float[64,32] a, float[64,32] b>
    {
       y = If(c) <
          then_branch = t () => (float[N,32] p) { p = MatMul(x, a) },
          else_branch = e () => (float[N,32] q) { q = MatMul(x, b) }
       >
    }
    """
    proto = fill(onnx.parser.parse_model(text))
    model, ctx, edits = weights_only(proto, "")
    assert (edits, ctx.untouched) == (2, {})
    assert noise(proto, model, optimize=False) < 0.02


@pytest.mark.parametrize("name", ["digits_lstm", "digits_vit", "digits_resnet"])
def test_models_of_the_project(name: str) -> None:
    proto = onnx.load(MODELS / f"{name}.onnx")
    clean = Model.from_proto(proto)
    for item in spec.parse("clean,fuse"):
        item.run(clean, Context())
    before = clean.to_proto()
    model, _, edits = weights_only(before, "")
    assert edits
    assert model.export().nbytes < 0.5 * before.ByteSize()
    assert noise(before, model, optimize=True) < 0.1

"""Weights stored in integers: every form, every reader, never a wrong float."""

import numpy as np
import onnx
import pytest

from onnxopt import spec
from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.testing import apply
from onnxopt_passes.quant import Quant, coded, large
from onnxopt_passes.quant.scheme import GRIDS

MATMUL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,40] y) <float[64,40] w> { y = MatMul(x, w) }"""

CONV = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1,16,8,8] x) => (float[1,24,6,6] y) <float[24,16,3,3] w> { y = Conv(x, w) }"""

DEPTHWISE = """<ir_version: 8, opset_import: ["" : 9]>
g (float[1,150,8,8] x) => (float[1,150,6,6] y) <float[150,1,3,3] w> { y = Conv<group=150>(x, w) }"""

TRANSPOSED = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1,16,8,8] x) => (float[1,24,10,10] y) <float[16,24,3,3] w> { y = ConvTranspose(x, w) }"""

GEMM = """<ir_version: 8, opset_import: ["" : 9]>
g (float[4,50] x) => (float[4,40] y) <float[40,50] w, float[40] b>
{ y = Gemm<transB=1>(x, w, b) }"""

LSTM = """<ir_version: 8, opset_import: ["" : 14]>
g (float[5,1,30] x) => (float[5,1,1,20] y) <float[1,80,30] w, float[1,80,20] r>
{ y = LSTM<hidden_size=20>(x, w, r) }"""

GRU = """<ir_version: 8, opset_import: ["" : 14]>
g (float[5,1,30] x) => (float[5,1,1,20] y) <float[1,60,30] w, float[1,60,20] r>
{ y = GRU<hidden_size=20>(x, w, r) }"""

EINSUM = """<ir_version: 8, opset_import: ["" : 13]>
g (float[2,3,40] x) => (float[2,3,50] y) <float[40,50] w>
{ y = Einsum<equation="abc,cd->abd">(x, w) }"""

BEHIND = """<ir_version: 8, opset_import: ["" : 13]>
g (float[3,40] x) => (float[3,50] y) <float[50,40] w>
{ t = Transpose<perm=[1,0]>(w)  i = Identity(t)  y = MatMul(x, i) }"""

TIED = """<ir_version: 8, opset_import: ["" : 13]>
g (int64[N] ids, float[N,32] x) => (float[N,32] e, float[N,100] y) <float[100,32] w>
{ e = Gather(w, ids)  t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t) }"""

EMBEDDING = """<ir_version: 8, opset_import: ["" : 13]>
g (int64[N,M] ids) => (float[N,M,42] e) <float[100,42] w> { e = Gather(w, ids) }"""

BRANCH = """<ir_version: 8, opset_import: ["" : 13]>
g (bool c, float[3,40] x) => (float[3,50] y) <float[40,50] w>
{
  y = If(c) <
    then_branch = t () => (float[3,50] a) { a = MatMul(x, w) },
    else_branch = e () => (float[3,50] b) { m = Neg(x)  b = MatMul(m, w) }
  >
}"""

LOOP = """<ir_version: 8, opset_import: ["" : 13]>
g (int64 n, bool c, float[3,40] x) => (float[3,40] y) <float[40,40] w>
{
  y = Loop(n, c, x) <
    body = b (int64 i, bool go, float[3,40] s) => (bool on, float[3,40] r)
      { on = Identity(go)  p = MatMul(s, w)  r = Tanh(p) }
  >
}"""

MODELS = {
    "matmul": MATMUL,
    "conv": CONV,
    "depthwise": DEPTHWISE,
    "transposed": TRANSPOSED,
    "gemm": GEMM,
    "lstm": LSTM,
    "gru": GRU,
    "einsum": EINSUM,
    "behind": BEHIND,
    "tied": TIED,
    "embedding": EMBEDDING,
    "branch": BRANCH,
    "loop": LOOP,
}

LIMITS = {
    "quant:mode=weights": 0.02,
    "quant:mode=weights:weights=uint8:symmetric=false": 0.02,
    "quant:mode=weights:granularity=tensor": 0.03,
    "quant:mode=weights:granularity=block": 0.02,
    "quant:mode=weights:weights=int16": 2e-4,
    "quant:mode=weights:weights=int4": 0.25,
    "quant:mode=weights:weights=uint4:symmetric=false:block=16": 0.2,
    "quant:mode=weights:weights=uint2:symmetric=false:block=16": 0.7,
}
"""Relative error of the outputs, in the Euclidean norm, that the bits allow."""


def feeds(model):
    rng = np.random.default_rng(1)
    found = {}
    for port in model.export().inputs:
        shape = [d if isinstance(d, int) else 3 for d in port.shape]
        if port.dtype == np.int64:
            found[port.name] = rng.integers(0, 9, shape) if shape else np.asarray(2)
        elif port.dtype == bool:
            found[port.name] = np.asarray(True)
        else:
            found[port.name] = rng.normal(0, 1, shape).astype(np.float32)
    return found


@pytest.mark.parametrize("text", LIMITS)
@pytest.mark.parametrize("name", MODELS)
def test_every_form_for_every_reader(model, name, text):
    source = model(MODELS[name])
    before = source.export()
    after, edits = apply(spec.parse(text), before)
    onnx.checker.check_model(after.whole(), full_check=True)
    bits = GRIDS[spec.parse(text)[0].weights].bits

    large_floats = [t for t in after.proto.graph.initializer if t.data_type == 1]
    assert edits >= 1
    assert not any(np.prod(t.dims) > large.LARGE for t in large_floats)
    assert after.nbytes < before.nbytes * (0.7 if bits == 16 else 0.55)
    feed = feeds(source)
    want = Session(before).run(feed)
    for settings in (Settings(), Settings(optimize=True)):
        got = Session(after, settings).run(feed)
        for key, value in want.items():
            error = np.linalg.norm(got[key] - value) / np.linalg.norm(value)
            assert 0 < error < LIMITS[text]


@pytest.mark.parametrize("text", LIMITS)
def test_the_same_bytes_twice_and_nothing_the_second_time(model, text):
    before = model(TIED).export()
    passes = spec.parse(text)
    once, _ = apply(passes, before)
    twice, _ = apply(passes, before)
    again, edits = apply(passes, once)
    assert once.whole().SerializeToString() == twice.whole().SerializeToString()
    assert edits == 0
    assert again.whole().SerializeToString() == once.whole().SerializeToString()


def test_tied_weights_stay_tied(model):
    after, edits = apply((Quant(mode="weights"),), model(TIED).export())
    assert edits == 1
    assert [list(t.dims) for t in after.proto.graph.initializer if t.data_type == 3] == [[100, 32]]


def test_embeddings_are_looked_up_in_integers(model):
    after, _ = apply((Quant(mode="weights"),), model(EMBEDDING).export())
    gathered = [n.input[0] for n in after.proto.graph.node if n.op_type == "Gather"]
    stored = {t.name: t.data_type for t in after.proto.graph.initializer}
    assert {stored[name] for name in gathered} == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(("rows", "reads"), [("1", True), ("200", False)])
def test_a_matmul_of_few_rows_reads_a_dequantize_linear(model, rows, reads):
    after, _ = apply((Quant(mode="weights"),), model(MATMUL.replace("N", rows)).export())
    assert ("DequantizeLinear" in [n.op_type for n in after.proto.graph.node]) == reads
    assert after.proto.opset_import[0].version == 17


def test_blocks_raise_the_opset_only_where_a_kernel_takes_them(model):
    four = spec.parse("quant:mode=weights:weights=int4")
    versions = {
        name: apply(four, model(text).export())[0].proto.opset_import[0].version
        for name, text in MODELS.items()
    }
    raised = {"matmul", "branch", "loop"}
    assert versions == {k: 21 if k in raised else model(t).opset for k, t in MODELS.items()}


def test_what_is_no_weight_is_listed_with_the_reason(model):
    source = model("""<ir_version: 8, opset_import: ["" : 13]>
    g (float[50,40] x, int64[N] k) => (float[50,40] y, float[50,40] v, int64[N] z)
      <float[50,40] shift, float[50,40] v, int64[2000] table>
    { y = Add(x, shift)  z = Gather(table, k) }""")
    ctx = Context()
    assert Quant(mode="weights").run(source, ctx) == 0
    assert ctx.untouched["shift"] == "Add takes it as values, not as a weight"
    assert "int64" in ctx.untouched["table"]


def test_a_default_that_callers_may_override_stays(model):
    text = MATMUL.replace("float[N,64] x", "float[N,64] x, float[64,40] w").replace(
        " <float[64,40] w>", ""
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 40), "f4"), "w"))
    ctx = Context()
    source = Model.from_proto(proto)
    assert Quant(mode="weights").run(source, ctx) == 0
    assert ctx.untouched == {"w": "callers may feed another value"}


def test_numbers_that_are_not_finite_stay(model):
    source = model(MATMUL)
    weight = next(t for t in source.graph.nodes[0].inputs if t.name == "w")
    weight.values = np.where(weight.values == weight.values.max(), np.inf, weight.values)
    ctx = Context()
    assert Quant(mode="weights").run(source, ctx) == 0
    assert ctx.untouched == {"w": "it holds numbers that are not finite"}


@pytest.mark.parametrize("bits", [2, 4])
def test_packing_is_undone_by_floor_and_multiplication(bits):
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 1 << bits, (3, 2, 16))
    rest = coded.pack(integers, 2, bits).astype(np.float32)
    parts = []
    for _ in range(8 // bits - 1):
        above = np.floor(rest / (1 << bits))
        parts.append(rest - above * (1 << bits))
        rest = above
    np.testing.assert_array_equal(np.concatenate([*parts, rest], 2), integers)


@pytest.mark.parametrize(
    ("shape", "block", "view"),
    [
        ((24, 16, 3, 3), 32, (24, 144, 1)),
        ((150, 1, 3, 3), 32, (150, 9, 1)),
        ((1, 80, 30), 16, (80, 30, 1)),
        ((1, 80, 30), 32, (1, 2400, 1)),
        ((100, 42), 32, (100, 42, 1)),
        ((2000,), 32, (1, 2000, 1)),
    ],
)
def test_blocks_run_along_trailing_axes_and_keep_rows_apart(shape, block, view):
    assert coded.along(shape, block) == view

"""Each rule finds what it is for, and nothing else is said of a sound model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxopt.check import Budgets, Settings, check
from onnxopt.check.rules import RULES
from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my" : 1, "com.microsoft" : 1]> '


def text(graph: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(HEAD + graph)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    return model


def sound() -> onnx.ModelProto:
    weight = np.ones((8, 3, 3, 3), np.float32)
    return text(
        "g (float[N,3,8,8] x) => (float[N,8,6,6] y) { c = Conv(x, w) y = Relu(c) }", w=weight
    )


def codes(model: onnx.ModelProto, tmp_path: Path, **words: object) -> set[str]:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return {f.rule.code for f in check(path, Settings(root=tmp_path, **words))}


def changed(edit: Callable[[onnx.GraphProto], object]) -> onnx.ModelProto:
    """Return a sound model whose graph is changed in one place."""
    model = sound()
    edit(model.graph)
    return model


def resized(place: str, axis: int, size: int) -> onnx.ModelProto:
    """Return a sound model whose input or output declares another size."""
    model = sound()
    (value,) = getattr(model.graph, place)
    value.type.tensor_type.shape.dim[axis].dim_value = size
    return model


def documented(text: str) -> onnx.ModelProto:
    """Return a sound model with a doc string."""
    model = sound()
    model.doc_string = text
    return model


def versionless() -> onnx.ModelProto:
    """Return a sound model that names no opset."""
    model = sound()
    del model.opset_import[:]
    return model


def norm(**values: np.ndarray) -> onnx.ModelProto:
    ones = {n: np.ones(8, np.float32) for n in ("s", "b", "mean", "var")}
    return text(
        "g (float[N,3,8,8] x) => (float[N,8,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, mean, var) }",
        **{"w": np.ones((8, 3, 3, 3), np.float32), **ones, **values},
    )


def matmul(weight: np.ndarray) -> onnx.ModelProto:
    return text("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", w=weight)


def line(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    return text(f"g (float[8] x) => (float[8] y) {{ {body} }}", **weights)


ONES = np.ones((8, 4), np.float32)
HOLED = np.where(np.arange(32).reshape(8, 4) == 5, np.float32(np.nan), ONES)
BURST = np.where(np.arange(32).reshape(8, 4) == 5, np.float32(np.inf), ONES)
HUNDRED = np.full(100, 7, np.float32)

CASES = {
    "OPT002": changed(lambda g: setattr(g.node[1], "op_type", "Rleu")),
    "OPT003": resized("output", 1, 9),
    "OPT005": versionless(),
    "OPT006": changed(lambda g: g.node[1].input.__setitem__(0, "cc")),
    "OPT007": changed(lambda g: g.node[0].input.__setitem__(0, "y")),
    "OPT008": line("y = Relu(a) a = Abs(x)"),
    "OPT009": changed(lambda g: g.node[0].output.__setitem__(0, "w")),
    "OPT101": line("y = com.microsoft.Gelu(x)"),
    "OPT102": line("y = my.Unknown(x)"),
    "OPT105": documented('File "/home/ann/train.py", line 3'),
    "OPT106": line("y, m, v = BatchNormalization<training_mode = 1>(x, s, s, s, s)", s=np.ones(1)),
    "OPT201": norm(),
    "OPT202": line("c = Neg(w) y = Add(x, c)", w=np.ones(8, np.float32)),
    "OPT203": line("d = Exp(x) y = Relu(x)"),
    "OPT204": line(
        "a = Sum(v, x) c = Sum(w, a) y = Relu(c)",
        v=np.ones(128, np.float32), w=np.ones(128, np.float32),
    ),
    "OPT205": line("y = Relu(x)", w=HUNDRED),
    "OPT206": line("a = Identity(x) y = Relu(a)"),
    "OPT207": matmul(np.ones((8, 50_000), np.float32)),
    "OPT208": line(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = Erf(d)"
        " r = QuantizeLinear(e, s, z) y = DequantizeLinear(r, s, z)",
        s=np.float32(0.1), z=np.uint8(0),
    ),
    "OPT209": text(
        "g (float[N,3,8,8] x) => (float[N,9,6,6] y) { c = Conv(x, w) y = Relu(c) }",
        w=np.ones((9, 3, 3, 3), np.float32),
    ),
    "OPT210": line("y = Pow(x, two)", two=np.float32(2)),
    "OPT211": text(
        "g (float[N,3,8,8] x) => (float[N,8,6,6] y) { c = Conv(x, w) m = Mul(c, k) y = Add(m, d) }",
        w=np.ones((8, 3, 3, 3), np.float32), k=np.ones((8, 1, 1), np.float32), d=np.float32([2]),
    ),
    "OPT212": line("a = Exp(x) b = Exp(x) y = Mul(a, b)"),
    "OPT301": matmul(HOLED),
    "OPT302": matmul(BURST),
    "OPT303": matmul(ONES * np.float32(1e-40)),
    "OPT304": matmul(ONES * np.float32(1e9)),
    "OPT305": norm(var=-np.ones(8, np.float32)),
    "OPT306": line("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", s=np.float32(0)),
    "OPT402": resized("input", 0, 2**40),
    "OPT403": resized("input", 0, -1),
}  # fmt: skip

BUDGETS = {
    "OPT103": Budgets(max_opset=16),
    "OPT501": Budgets(max_bytes=100),
    "OPT502": Budgets(max_params=200),
    "OPT503": Budgets(max_macs=1000),
    "OPT505": Budgets(banned_ops=("Relu",)),
    "OPT506": Budgets(min_opset=18),
    "OPT507": Budgets(required_metadata=("licence",)),
}

ELSEWHERE = {"OPT001", "OPT004", "OPT010", "OPT104", "OPT213", "OPT401", "OPT504"}
"""Codes that have a test of their own below."""


@pytest.mark.parametrize("code", CASES)
def test_a_rule_finds_its_case(code: str, tmp_path: Path) -> None:
    assert code in codes(CASES[code], tmp_path)


@pytest.mark.parametrize("code", BUDGETS)
def test_a_budget_is_held(code: str, tmp_path: Path) -> None:
    assert codes(sound(), tmp_path, budgets=BUDGETS[code]) == {code}


def test_nothing_is_said_of_a_sound_model(tmp_path: Path) -> None:
    kept = Budgets(
        max_bytes=5000, max_params=216, max_macs=7776, min_opset=17, max_opset=17,
        banned_ops=("Erf", "my.*"),
    )  # fmt: skip
    assert codes(sound(), tmp_path, budgets=kept, runtime=True) == set()


def test_every_rule_has_a_case_and_an_explanation() -> None:
    assert {r.code for r in RULES} == {*CASES, *BUDGETS, *ELSEWHERE}
    for rule in RULES:
        assert rule.title.endswith(".")
        assert len(rule.title) < 90
    assert len({r.name for r in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"hello, this is text", "not an ONNX model"),
        (sound().SerializeToString()[:-100], "cut short"),
        (b"\x08\x08", "no graph"),
    ],
)
def test_what_cannot_be_read_is_one_finding(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    (found,) = check(path, Settings())
    assert found.rule.code == "OPT001"
    assert said in found.message
    assert str(path) not in found.message


def test_names_that_are_no_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = line("middle = Relu(x) y = Abs(middle)").SerializeToString()
    path.write_bytes(data.replace(b"middle", b"\xff\xfe\xfd\xfc\xfb\xfa"))
    assert {f.rule.code for f in check(path, Settings())} == {"OPT001"}


def test_the_message_of_a_dangling_input_names_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(line("middle = Relu(x) y = Abs(midle)"), path)
    found = {f.rule.code: f for f in check(path, Settings())}
    assert found["OPT006"].message.endswith("did you mean 'middle'?")
    assert found["OPT006"].where == "y"
    assert "OPT002" not in found, "one cause, one finding"


def test_functions_that_call_each_other_do_not_reach_onnx(tmp_path: Path) -> None:
    model = line("y = my.f(x)")
    for name, other in (("f", "h"), ("h", "f")):
        node = helper.make_node(other, ["a"], ["b"], domain="my")
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        model.functions.append(helper.make_function("my", name, ["a"], ["b"], [node], imports))
    found = codes(model, tmp_path)
    assert "OPT007" in found
    assert "OPT000" not in found


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(matmul(ONES), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = {f.rule.code for f in check(path, Settings(runtime=True))}
    assert found == {"OPT104"}
    budget = Settings(budgets=Budgets(max_bytes=path.stat().st_size + ONES.nbytes - 1))
    assert "OPT501" in {f.rule.code for f in check(path, budget)}
    os.truncate(tmp_path / "w.bin", 10)
    assert "OPT010" in {f.rule.code for f in check(path, Settings())}
    (tmp_path / "w.bin").unlink()
    assert "OPT010" in {f.rule.code for f in check(path, Settings())}


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd"])
def test_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    model = matmul(ONES)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    found = codes(model, tmp_path)
    assert "OPT401" in found
    assert "OPT010" not in found


def test_onnxruntime_is_asked_only_where_wanted(tmp_path: Path) -> None:
    model = text("g (double[4] x) => (double[4] y) { y = HardSigmoid(x) }")
    assert codes(model, tmp_path) == set()
    assert codes(model, tmp_path, runtime=True) == {"OPT004"}
    assert codes(model, tmp_path, select=("OPT004",)) == {"OPT004"}


def test_latency_is_held_against_a_baseline(tmp_path: Path) -> None:
    onnx.save(sound(), tmp_path / "old.onnx")
    baseline = str(tmp_path / "old.onnx")
    lax, strict = (Budgets(baseline=baseline, max_latency_ratio=r) for r in (1000.0, 1e-6))
    assert codes(sound(), tmp_path, budgets=lax) == set()
    assert codes(sound(), tmp_path, budgets=strict) == {"OPT504"}
    with pytest.raises(SpecError, match="give both"):
        codes(sound(), tmp_path, budgets=Budgets(baseline=baseline))
    other = line("y = Relu(x)")
    onnx.save(other, tmp_path / "old.onnx")
    assert codes(sound(), tmp_path, budgets=lax) == {"OPT504"}


def test_bodies_count_as_readers(tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (bool c, float[8] x) => (float[8] y) { a = Exp(x) y = If (c) <"
        " then_branch = t () => (float[8] u) { u = Neg(a) },"
        " else_branch = e () => (float[8] v) { v = Abs(x) }> }"
    )
    assert codes(model, tmp_path) == set()


def test_names_of_a_body_are_its_own(tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (bool c, float[8] x) => (float[8] y) { b = If (c) <"
        " then_branch = t () => (float[8] a) { a = Neg(x) },"
        " else_branch = e () => (float[8] v) { v = Abs(x) }> a = Exp(b) y = Add(a, b) }"
    )
    assert not {"OPT007", "OPT008"} & codes(model, tmp_path)


def test_interface_keeps_an_identity(tmp_path: Path) -> None:
    assert codes(line("y = Identity(x)"), tmp_path) == set()


def test_infinities_of_a_mask_are_meant(tmp_path: Path) -> None:
    mask = np.array([0, -np.inf] * 4, np.float32)
    assert codes(line("y = Add(x, m)", m=mask), tmp_path) == set()


CONV = "g (float[N,3,8,8] x) => (float[N,8,6,6] y) {{ {} }}"

KERNEL = np.ones((8, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    "model",
    [
        text(CONV.format("c = Conv(x, w) y = Mul(c, k)"), w=KERNEL, k=np.ones((6, 6), np.float32)),
        text(CONV.format("c = Conv(x, w) y = Div(k, c)"), w=KERNEL, k=np.float32(2)),
        text(CONV.format("c = Conv(x, w) m = Mul(c, k) y = Add(c, m)"), w=KERNEL, k=np.float32(2)),
    ],
    ids=["not a channel", "divided by the layer", "read twice"],
)
def test_arithmetic_that_a_layer_cannot_absorb(model: onnx.ModelProto, tmp_path: Path) -> None:
    assert "OPT211" not in codes(model, tmp_path)


def test_weights_in_integers_are_not_foldable(tmp_path: Path) -> None:
    body = "f = Cast<to = 1>(q) w = Mul(f, s) y = MatMul(x, w)"
    graph = f"g (float[N,64] x) => (float[N,64] y) {{ {body} }}"
    weights = {"q": np.ones((64, 64), np.int8), "s": np.full((1, 64), 0.1, np.float32)}
    assert "OPT202" not in codes(text(graph, **weights), tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) f = Cast<to = 1>(s) y = Add(x, f)",
        "z = ConstantOfShape(n) y = Add(x, z)",
        "i = Identity(n) z = ConstantOfShape(n) s = Add(i, i) t = Cast<to = 1>(s) y = Add(x, t)",
    ],
)
def test_what_is_the_same_in_every_run_is_foldable(body: str, tmp_path: Path) -> None:
    assert "OPT202" in codes(line(body, n=np.array([1], np.int64)), tmp_path)


def test_types_are_inferred_for_casts(tmp_path: Path) -> None:
    assert "OPT206" in codes(line("a = Exp(x) b = Cast<to = 1>(a) y = Abs(b)"), tmp_path)
    assert "OPT206" not in codes(line("a = Cast<to = 11>(x) y = Cast<to = 1>(a)"), tmp_path)


def test_random_nodes_do_not_repeat_each_other(tmp_path: Path) -> None:
    body = "a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)"
    assert "OPT212" not in codes(line(body), tmp_path)


def test_the_passes_are_rehearsed_where_wanted(tmp_path: Path) -> None:
    model = line("a = Slice(x, i, j) b = Slice(x, j, k) y = Concat<axis = 0>(a, b)", **BOUNDS)
    assert codes(model, tmp_path) == set()
    assert codes(model, tmp_path, runtime=True) == {"OPT213"}
    (found,) = check(tmp_path / "model.onnx", Settings(runtime=True))
    assert found.message.startswith("clean and fuse would make")
    assert found.message.endswith("of 3 nodes")


BOUNDS = {n: np.array([v], np.int64) for n, v in zip("ijk", (0, 4, 8), strict=True)}

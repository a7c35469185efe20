"""Deliberately wrong passes: each is caught, traced to the edit, and named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from identities import chain, drop

import onnxopt
from onnxopt import Context, Model, Pass, Rule, match, rewrite
from onnxopt.errors import (
    BudgetError,
    OnnxoptError,
    ParityError,
    PassError,
    SamplesError,
    SpecError,
)
from onnxopt.model import ir
from onnxopt.runtime import run_once
from onnxopt.testing import fill


@dataclass(frozen=True)
class OneWrong(Pass):
    """Drops Identity nodes, and doubles the value at one of them."""

    name: ClassVar[str] = "one-wrong"
    node: str = "n13"

    def run(self, model: Model, ctx: Context) -> int:
        def wrong(graph, node) -> bool:
            if node.name != self.node:
                return drop(graph, node)
            (out,), (x,) = node.outputs, node.inputs
            match.remove(node)
            match.insert(graph, ir.Node("Add", "wrong", {}, [x, x], [out]))
            return True

        return rewrite.apply(model, (Rule("drop", ("Identity",), wrong),), ctx)


def test_one_wrong_edit_among_many_is_undone_alone() -> None:
    result = onnxopt.optimize(chain(), (OneWrong(),), timing=False)
    (step,) = result.steps
    assert step.undone == ("drop@n13",)
    assert "is off by" in step.reasons[0]
    # The wrong edit's node stays, and the last one, whose output the caller fetches.
    assert [n.name for n in result.model.graph.node] == ["n13", "n23"]
    assert step.edits == 22
    assert result.report["steps"][0]["undone"] == ["drop@n13"]


@dataclass(frozen=True)
class AllWrong(Pass):
    """Doubles the value at every Identity."""

    name: ClassVar[str] = "all-wrong"

    def run(self, model: Model, ctx: Context) -> int:
        def wrong(graph, node) -> bool:
            (out,), (x,) = node.outputs, node.inputs
            match.remove(node)
            match.insert(graph, ir.Node("Add", node.name, {}, [x, x], [out]))
            return True

        return rewrite.apply(model, (Rule("double", ("Identity",), wrong),), ctx)


def test_a_rule_that_is_always_wrong_is_switched_off() -> None:
    result = onnxopt.optimize(chain(), (AllWrong(),), timing=False)
    assert len(result.steps[0].undone) == 3
    assert result.steps[0].edits == 0
    assert [n.op_type for n in result.model.graph.node] == ["Identity"] * 24


QUANTIZABLE = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N,64] x) => (float[N,64] y) <float[64,64] w>
{
  [m] y = MatMul(x, w)
}
"""


@dataclass(frozen=True)
class WeightOnly(Pass):
    """Stores a weight as int4 without any error of its own: its values are multiples of a scale.

    As written, DequantizeLinear gives the very weights back. With optimizations onnxruntime
    fuses it and MatMul to MatMulNBits, which rounds the activations too.
    """

    name: ClassVar[str] = "weight-only"

    def run(self, model: Model, ctx: Context) -> int:
        def quantize(graph, node) -> bool:
            x, w = node.inputs
            values = match.constant(w)
            if values is None:
                return False
            whole = ir.Constant("w_int4", np.rint(values * 8).astype(ml_dtypes.int4))
            scale = ir.Constant("scale", np.full((2, 64), 1 / 8, np.float32))
            back = ir.Variable("w_back", np.dtype(np.float32), [64, 64])
            attrs = {"axis": 0, "block_size": 32}
            match.insert(graph, ir.Node("DequantizeLinear", "dq", attrs, [whole, scale], [back]))
            node.inputs = [x, back]
            return True

        return rewrite.apply(model, (Rule("quantize", ("MatMul",), quantize),), ctx)


def quantizable() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(QUANTIZABLE)
    rng = np.random.default_rng(0)
    weight = (rng.integers(-8, 8, (64, 64)) / 8).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    del proto.graph.value_info[:]
    return proto


def test_an_edit_that_only_the_optimized_runtime_reveals_is_undone() -> None:
    (step,) = onnxopt.optimize(quantizable(), (WeightOnly(),), timing=False).steps
    assert step.undone == ("quantize@m",)
    assert "with onnxruntime's optimizations" in step.reasons[0]


UNUSED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x, float[N] unused) => (float[N,8] y)
{
  [r] y = Relu(x)
}
"""


@dataclass(frozen=True)
class DropsInput(Pass):
    """Drops inputs that nothing reads; asks first, or does not."""

    name: ClassVar[str] = "drops-input"
    ask: bool = True

    def run(self, model: Model, ctx: Context) -> int:
        unused = [t for t in model.graph.inputs if not t.outputs]
        gone = [t for t in unused if not self.ask or ctx.allow(f"input@{t.name}")]
        model.graph.inputs = [t for t in model.graph.inputs if t not in gone]
        return len(gone)


def test_a_dropped_input_is_put_back() -> None:
    result = onnxopt.optimize(onnx.parser.parse_model(UNUSED), (DropsInput(),), timing=False)
    assert result.steps[0].undone == ("input@unused",)
    assert [v.name for v in result.model.graph.input] == ["x", "unused"]


def test_a_dropped_input_that_no_edit_explains_ends_the_run() -> None:
    with pytest.raises(ParityError, match="input 'unused' is gone"):
        onnxopt.optimize(onnx.parser.parse_model(UNUSED), (DropsInput(ask=False),), timing=False)


@dataclass(frozen=True)
class Renotes(Pass):
    """Writes into the metadata of an input."""

    name: ClassVar[str] = "renotes"

    def run(self, model: Model, ctx: Context) -> int:
        if not ctx.allow("note"):
            return 0
        model.graph.inputs[0].carried.metadata_props.add(key="k", value="v")
        return 1


def test_inputs_stay_as_they_are_described() -> None:
    step = onnxopt.optimize(chain(), (Renotes(),), timing=False).steps[0]
    assert step.undone == ("note",)
    assert "input 'x' changed its doc string or metadata" in step.reasons[0]


@dataclass(frozen=True)
class Liar(Pass):
    """Edits, and reports none."""

    name: ClassVar[str] = "liar"

    def run(self, model: Model, ctx: Context) -> int:
        rewrite.apply(model, (Rule("drop", ("Identity",), drop),), ctx)
        return 0


def test_a_pass_that_claims_no_edits_is_refused() -> None:
    with pytest.raises(PassError, match="reports 0 edits but changed the model"):
        onnxopt.optimize(chain(), (Liar(),), timing=False)


@dataclass(frozen=True)
class Raises(Pass):
    """Raises at one node, or always."""

    name: ClassVar[str] = "raises"
    node: str = "n7"

    def run(self, model: Model, ctx: Context) -> int:
        def rule(graph, node) -> bool:
            if node.name == self.node:
                raise KeyError("axis")
            return drop(graph, node)

        if not self.node:
            raise KeyError("axis")
        return rewrite.apply(model, (Rule("drop", ("Identity",), rule),), ctx)


def test_an_edit_that_raises_is_left_out() -> None:
    (step,) = onnxopt.optimize(chain(), (Raises(),), timing=False).steps
    assert step.undone == ("drop@n7",)
    assert step.reasons == ("KeyError: 'axis'",)
    assert step.edits == 22


def test_a_pass_that_always_raises_ends_the_run() -> None:
    with pytest.raises(PassError, match=r"pass 'raises' is broken: KeyError: 'axis'"):
        onnxopt.optimize(chain(), (Raises(node=""),), timing=False)


@dataclass(frozen=True)
class Refuses(Pass):
    """Says what is wrong with what it was asked for, after some edits."""

    name: ClassVar[str] = "refuses"
    kind: type[OnnxoptError] = SpecError

    def run(self, model: Model, ctx: Context) -> int:
        rewrite.apply(model, (Rule("drop", ("Identity",), drop),), ctx)
        raise self.kind("ask for something else")


@pytest.mark.parametrize("kind", [SpecError, SamplesError, BudgetError])
def test_what_a_user_asked_wrongly_is_neither_undone_nor_a_broken_pass(kind) -> None:
    with pytest.raises(kind, match=r"^ask for something else$"):
        onnxopt.optimize(chain(), (Refuses(kind),), timing=False)


@dataclass(frozen=True)
class Loops(Pass):
    """Never ends: two rules that undo each other, questions without end, or nothing at all."""

    name: ClassVar[str] = "loops"
    how: str = "rules"

    def run(self, model: Model, ctx: Context) -> int:
        def rename(graph, node) -> bool:
            node.op = {"Identity": "Relu", "Relu": "Identity"}[node.op]
            return True

        if self.how == "rules":
            return rewrite.apply(model, (Rule("flip", ("Identity", "Relu"), rename),), ctx)
        while True:
            pass


def test_rules_that_undo_each_other_are_stopped() -> None:
    model = Model.from_proto(chain(4))
    with pytest.raises(PassError, match="loop"):
        Loops().run(model, Context())


def test_a_looping_rule_is_traced_to_an_edit() -> None:
    (step,) = onnxopt.optimize(chain(4), (Loops(),), timing=False).steps
    assert step.undone
    assert all(u.startswith("flip@") for u in step.undone)


def test_a_pass_that_never_returns_is_stopped() -> None:
    with pytest.raises(PassError, match=r"not done after 0\.2 s"):
        onnxopt.optimize(chain(4), (Loops("forever"),), timing=False, pass_timeout=0.2)


def test_a_repro_shows_the_wrong_edit(tmp_path) -> None:
    folder = tmp_path / "repros"
    result = onnxopt.optimize(chain(), (OneWrong(),), timing=False, repro=folder)
    (here,) = folder.iterdir()
    assert here.name == "drop@n13"
    assert str(here) in result.report["notes"][0]
    before, after = (Model.load(here / f"{name}.onnx").to_proto() for name in ("before", "after"))
    assert [n.op_type for n in before.graph.node] == ["Identity"] * 24
    assert [n.op_type for n in after.graph.node].count("Add") == 1, "that edit alone was made"
    with np.load(here / "feed.npz") as feed:
        want, got = (run_once(m, dict(feed))["y"] for m in (before, after))
    assert not np.allclose(want, got)
    assert "is off by" in (here / "README.txt").read_text("utf-8")


@dataclass(frozen=True)
class Coarse(Pass):
    """Rounds what goes into a MatMul to bfloat16; lossy."""

    name: ClassVar[str] = "coarse"
    exact: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> int:
        (node,) = [n for n in model.graph.nodes if n.op == "MatMul"]
        if not ctx.allow("coarse@w"):
            return 0
        weight = node.inputs[1]
        weight.values = weight.values.astype(ml_dtypes.bfloat16).astype(np.float32)
        return 1


def test_the_noise_floor_of_the_report_is_that_of_the_source() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,16] x) => (float[N,4] y) <float[16,4] w> { m = MatMul(x, w)  y = Tanh(m) }
    """)
    settings = {"timing": False, "allow_synthetic": True, "metric": "cosine"}
    plain = onnxopt.optimize(fill(proto), (), **settings)
    lossy = onnxopt.optimize(fill(proto), (Coarse(),), **settings)
    assert lossy.steps[0].edits == 1
    assert lossy.report["proof"]["noise_floor"] == plain.report["proof"]["noise_floor"]

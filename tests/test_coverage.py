"""Branches that no sample reaches are made to run, or are said not to have been proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
from test_proof import drop

import onnxopt
from onnxopt import Context, Model, Pass, Rule, match, rewrite
from onnxopt.coverage import Probe
from onnxopt.model import ir
from onnxopt.runtime import Session

MODE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x, int64 mode) => (float[N,4] y)
   <int64 eight = {8000}>
{
  [test] fast = Equal(mode, eight)
  [choose] y = If(fast) <
    then_branch = then () => (float[N,4] a) { [t] u = Identity(x)  a = Neg(u) },
    else_branch = other () => (float[N,4] b) { [e] v = Identity(x)  b = Relu(v) }
  >
}
"""

CONTENT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,4] y)
   <float huge = {1e30}>
{
  total = ReduceSum<keepdims = 0>(x)
  [test] rare = Greater(total, huge)
  [choose] y = If(rare) <
    then_branch = then () => (float[N,4] a) { [t] u = Identity(x)  a = Neg(u) },
    else_branch = other () => (float[N,4] b) { [e] v = Identity(x)  b = Relu(v) }
  >
}
"""

LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[4] x, int64 n) => (float[4] y)
   <bool go = {1}, int64 two = {2}>
{
  [loop] y = Loop(n, go, x) <
    body = turn (int64 i, bool c, float[4] s) => (bool c2, float[4] s2) {
      c2 = Identity(c)
      late = Greater(i, two)
      [inner] s2 = If(late) <
        then_branch = then () => (float[4] a) { a = Neg(s) },
        else_branch = other () => (float[4] b) { b = Abs(s) }
      >
    }
  >
}
"""

FEEDS = [{"x": np.full((1, 4), i, np.float32), "mode": np.array(16000)} for i in range(5)]


@dataclass(frozen=True)
class Drop(Pass):
    """Drops Identity nodes; in branches called `then`, doubles the value instead if `wrong`."""

    name: ClassVar[str] = "drop"
    wrong: bool = False

    def run(self, model: Model, ctx: Context) -> int:
        def rule(graph, node) -> bool:
            if not (self.wrong and graph.name == "then"):
                return drop(graph, node)
            (out,), (x,) = node.outputs, node.inputs
            match.remove(node)
            match.insert(graph, ir.Node("Add", "doubled", {}, [x, x], [out]))
            return True

        return rewrite.apply(model, (Rule("drop", ("Identity",), rule),), ctx)


@dataclass(frozen=True)
class LossyDrop(Drop):
    """The same, as a lossy pass."""

    exact: ClassVar[bool] = False


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def test_a_branch_chosen_by_a_mode_is_made_to_run() -> None:
    proof = onnxopt.optimize(parse(MODE), (Drop(),), FEEDS, timing=False).report["proof"]
    assert proof["unreached_branches"] == []
    assert proof["drawn"] == 1
    assert proof["samples"] == 2


def test_a_wrong_edit_in_a_branch_that_no_sample_reaches_is_found() -> None:
    (step,) = onnxopt.optimize(parse(MODE), (Drop(wrong=True),), FEEDS, timing=False).steps
    assert step.undone == ("drop@choose.then_branch/t",)


def test_edits_in_a_branch_that_cannot_be_reached_are_counted() -> None:
    feeds = [{"x": f["x"]} for f in FEEDS]
    result = onnxopt.optimize(parse(CONTENT), (Drop(),), feeds, timing=False)
    assert result.report["proof"]["unreached_branches"] == ["choose.then_branch/"]
    (step,) = result.steps
    assert (step.edits, step.unproven_edits) == (2, 1)


def test_lossy_passes_leave_such_a_branch_alone() -> None:
    feeds = [{"x": f["x"]} for f in FEEDS]
    result = onnxopt.optimize(parse(CONTENT), (LossyDrop(),), feeds, timing=False)
    (step,) = result.steps
    assert (step.edits, step.held_back) == (1, 1)
    (choose,) = (n for n in result.model.graph.node if n.op_type == "If")
    bodies = {a.name: [n.op_type for n in a.g.node] for a in choose.attribute}
    assert bodies == {"then_branch": ["Identity", "Neg"], "else_branch": ["Relu"]}


def test_branches_inside_loops_are_followed() -> None:
    probe = Probe(Model.from_proto(parse(LOOP)).export())
    assert probe.branches == (
        "loop.body/inner.then_branch/",
        "loop.body/inner.else_branch/",
    )
    session = Session(probe.exported)
    x = np.ones(4, np.float32)
    for turns, reached in ((0, 0), (2, 1), (5, 2)):
        outputs = session.run({"x": x, "n": np.array(turns)})
        assert len(probe.reached(outputs)) == reached


def test_nested_branches_are_told_apart() -> None:
    text = MODE.replace(
        "a = Neg(u)",
        """
        small = Cast<to = 9>(mode)
        a = If(small) <
          then_branch = inner () => (float[N,4] p) { p = Neg(u) },
          else_branch = never () => (float[N,4] q) { q = Abs(u) }
        >
        """,
    )
    probe = Probe(Model.from_proto(parse(text)).export())
    session = Session(probe.exported)
    x = np.ones((1, 4), np.float32)
    assert probe.reached(session.run({"x": x, "mode": np.array(8000)})) == {
        "choose.then_branch/",
        "choose.then_branch/a.then_branch/",
    }
    assert probe.reached(session.run({"x": x, "mode": np.array(1)})) == {"choose.else_branch/"}

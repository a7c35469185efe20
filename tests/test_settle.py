"""A pass that opens something to one before it: both take turns until nothing is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx.parser
import pytest

import onnxopt
from onnxopt import Context, Model, Pass, Rule, match, rewrite, settle, spec
from onnxopt.errors import PassError
from onnxopt.model import ir

TURNED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,6,2,4] x, float[1,2,6,4] z) => (float[1,2,6,6] y)
<int64[3] a = {-1, 6, 4}, int64[4] b = {1, 2, 4, 6}>
{
   h = Transpose<perm = [0, 2, 1, 3]>(x)
   f = Reshape(h, a)
   t = Transpose<perm = [0, 2, 1]>(f)
   k = Reshape(t, b)
   y = MatMul(z, k)
}
"""


@dataclass(frozen=True)
class Open(Pass):
    """Make one Abs of a sum of constants an Identity: only `clean` then sees the next one."""

    name: ClassVar[str] = "open"
    followed: ClassVar[tuple[str, ...]] = ("clean",)
    endless: bool = False

    def run(self, model: Model, ctx: Context) -> int:
        def expose(graph, node) -> bool:
            if match.producer(node.inputs[0]) is not None and not self.endless:
                return False
            if self.endless:
                made = ir.Variable(f"{node.name}.again")
                match.insert(graph, ir.Node("Identity", made.name, {}, list(node.inputs), [made]))
                node.inputs = [made]
                return True
            node.op = "Identity"
            return True

        rules = (Rule("expose", ("Abs",), expose),)
        if not self.endless:
            return rewrite.apply(model, rules, ctx)
        node = next(n for n in model.graph.nodes if n.op == "Abs")
        match.stamp(model.graph)
        return int(ctx.allow("expose@abs") and expose(model.graph, node))


def nested(depth: int) -> Model:
    """x -> Abs -> Abs -> ... -> y; an Abs whose input nothing makes is one that `Open` opens."""
    names = ["x", *(f"t{i}" for i in range(1, depth)), "y"]
    lines = [f"{names[i + 1]} = Abs({names[i]})" for i in range(depth)]
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) {'
    return Model.from_proto(onnx.parser.parse_model(head + "\n".join(lines) + "}"))


def ops(model: Model) -> Counter[str]:
    return Counter(node.op for node in model.graph.nodes)


def test_they_take_turns_until_nothing_is_left() -> None:
    model = nested(4)
    assert Open().run(nested(4), Context()) == 1
    made = settle.run(Open(), model, Context())
    assert ops(model) == {"Identity": 1}
    assert made > 4
    assert settle.run(Open(), model, Context()) == 0


def test_nothing_follows_a_pass_that_found_nothing() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {%s}'
    untidy = Model.from_proto(onnx.parser.parse_model(text % "a = Identity(x) y = Relu(a)"))
    assert settle.run(Open(), untidy, Context()) == 0
    assert ops(untidy) == {"Identity": 1, "Relu": 1}


def test_a_follower_keeps_the_options_of_the_pipeline() -> None:
    clean = spec.parse("clean:fold_limit=7")[0]
    assert settle._options("clean", (clean,)) is clean
    assert spec.render(settle._options("clean", ())) == "clean"


def test_passes_that_undo_each_other_are_stopped() -> None:
    with pytest.raises(PassError, match="open, clean have not settled after 16 rounds"):
        settle.run(Open(endless=True), nested(1), Context())


def test_misses_of_a_follower_are_not_those_of_the_pass() -> None:
    token = match.MISSES.set([])
    try:
        settle.run(Open(), nested(2), Context())
        assert match.MISSES.get() is not None
    finally:
        match.MISSES.reset(token)


def test_fuse_leaves_nothing_to_a_second_run() -> None:
    source = onnx.parser.parse_model(TURNED)
    first = onnxopt.optimize(source, "clean,fuse", timing=False)
    assert Counter(n.op_type for n in first.model.graph.node) == {"Transpose": 1, "MatMul": 1}
    second = onnxopt.optimize(first.model, "clean,fuse", timing=False)
    assert [step.edits for step in second.steps] == [0, 0]

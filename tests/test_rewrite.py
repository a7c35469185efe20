"""The driver of local rules."""

from __future__ import annotations

import onnx.parser
import pytest
from test_proof import chain, drop

from onnxopt import Context, Model, Rule, match, rewrite
from onnxopt.errors import PassError


def test_a_rule_does_not_see_a_node_that_an_earlier_rule_made_another_op() -> None:
    seen = []

    def rename(graph, node) -> bool:
        node.op = "Relu"
        return True

    def note(graph, node) -> bool:
        seen.append(node.op)
        return False

    rules = (Rule("rename", ("Identity",), rename), Rule("note", ("Identity",), note))
    assert rewrite.apply(Model.from_proto(chain(5)), rules, Context()) == 5
    assert seen == []


def test_edits_that_are_not_allowed_are_not_made() -> None:
    asked = []

    def allow(edit: str) -> bool:
        asked.append(edit)
        return edit == "drop@n3"

    model = Model.from_proto(chain(6))
    assert rewrite.apply(model, (Rule("drop", ("Identity",), drop),), Context(allow=allow)) == 1
    assert "drop@n3" in asked
    assert len(model.graph.nodes) == 5


def test_rules_enter_bodies_and_functions() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (bool c, float[4] x) => (float[4] y, float[4] z) {
      [i] y = If(c) <then_branch = t () => (float[4] a) { [b] q = Identity(x)  a = Relu(q) },
                     else_branch = e () => (float[4] d) { d = Neg(x) }>
      z = local.twice(x)
    }
    <domain: "local", opset_import: ["" : 17]>
    twice (p) => (r) { [f] s = Identity(p)  r = Add(s, s) }
    """
    asked: list[str] = []

    def allow(edit: str) -> bool:
        asked.append(edit)
        return True

    model = Model.from_proto(onnx.parser.parse_model(text))
    assert rewrite.apply(model, (Rule("drop", ("Identity",), drop),), Context(allow=allow)) == 2
    assert set(asked) == {"drop@i.then_branch/b", "drop@local::twice/f"}


def test_rules_that_undo_each_other_are_named() -> None:
    def flip(graph, node) -> bool:
        node.op = {"Identity": "Relu", "Relu": "Identity"}[node.op]
        return True

    rules = (Rule("flip", ("Identity", "Relu"), flip),)
    with pytest.raises(PassError, match="undo each other's work near 'n"):
        rewrite.apply(Model.from_proto(chain(4)), rules, Context())


def test_orphaned_weights_go() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}, float[4] unused = {1, 2, 3, 4}>
    { y = Add(x, w) }
    """

    def forget(graph, node) -> bool:
        node.op, node.inputs = "Relu", node.inputs[:1]
        return True

    model = Model.from_proto(onnx.parser.parse_model(text))
    rewrite.apply(model, (Rule("forget", ("Add",), forget),), Context())
    assert [t.name for t in model.to_proto().graph.initializer] == ["unused"]


def test_a_rule_that_fires_after_all_leaves_no_reason() -> None:
    def fickle(graph, node) -> bool:
        match.miss("not in this way")
        return drop(graph, node)

    reasons: list[str] = []
    token = match.MISSES.set(reasons)
    rewrite.apply(Model.from_proto(chain(2)), (Rule("fickle", ("Identity",), fickle),), Context())
    match.MISSES.reset(token)
    assert set(reasons) == {"fickle@n1: not in this way"}

"""Rules that are wrong, which the certificate finds, and rules that others declare."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from itertools import pairwise

import onnx.parser
import pytest

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.testing import fill
from onnxopt_passes.prune import rules
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.prune import Prune
from onnxopt_passes.prune.rules import pointwise

CHAIN = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
g (float[N,3,8,8] x) => (float[N,4,2,2] y)
   <float[16,3,3,3] first, float[12,16,3,3] second, float[4,12,3,3] third>
{
   a = Conv(x, first)
   b = %s(a)
   c = Conv(b, second)
   d = Relu(c)
   y = Conv(d, third)
}
"""


def chain(op: str) -> Model:
    return Model.from_proto(fill(onnx.parser.parse_model(CHAIN % op)))


@pytest.fixture
def wrong(monkeypatch) -> None:
    """Say of Softmax over channels that it treats each of them by itself."""
    monkeypatch.setitem(rules.RULES, "Softmax", pointwise.unary)


def cut(model: Model, **options) -> Context:
    made = {}
    ctx = Context(allow=lambda name: not made.update({name: 1}), retract=made.pop)
    item = Prune(ratio=0.5, align="none", **options)
    assert item.run(model, ctx) == len(made)
    return ctx


def shapes(model: Model) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.to_proto().graph.initializer}


def test_a_wrong_rule_is_found_and_its_group_left_whole(wrong) -> None:
    model = chain("Softmax<axis = 1>")
    ctx = cut(model)
    assert list(ctx.evidence["certificate"]["frozen"]) == ["first"]
    assert "the certificate does not hold" in ctx.untouched["first"]
    assert shapes(model) == {"first": [16, 3, 3, 3], "second": [6, 16, 3, 3], "third": [4, 6, 3, 3]}


def test_a_wrong_rule_is_found_before_the_search(wrong, monkeypatch) -> None:
    searched = []
    decided = Prune._decided
    monkeypatch.setattr(Prune, "_decided", lambda *a: searched.append(1) or decided(*a))
    cut(chain("Softmax<axis = 1>"))
    assert len(searched) == 1


def test_a_plan_holds_what_was_proven_and_no_more(wrong, tmp_path) -> None:
    path = tmp_path / "plan.json"
    once, again = chain("Softmax<axis = 1>"), chain("Softmax<axis = 1>")
    cut(once, plan=str(path))
    text = path.read_text()
    assert '"second"' in text
    assert '"first"' not in text
    cut(again, plan=str(path))
    assert shapes(again) == shapes(once)
    assert path.read_text() == text


def test_the_rule_as_it_is_freezes_the_axis() -> None:
    ctx = cut(chain("Softmax<axis = 1>"))
    assert ctx.evidence["certificate"]["frozen"] == {}
    assert "first" in ctx.untouched


def test_other_distributions_declare_rules(monkeypatch) -> None:
    def first() -> str | None:
        return next(g for g in analyse(chain("my.domain.Gate")).groups if g.name == "first").frozen

    monkeypatch.setattr(rules, "entry_points", lambda group: ())
    rules.declared.cache_clear()
    assert "no rule for Gate" in str(first())
    target = "onnxopt_passes.prune.rules.pointwise:unary"
    entry = EntryPoint("my.domain::Gate", target, rules.GROUP)
    monkeypatch.setattr(rules, "entry_points", lambda group: (entry,))
    rules.declared.cache_clear()
    assert first() is None
    rules.declared.cache_clear()


def test_large_graphs_are_analysed() -> None:
    names = [f"t{i}" for i in range(10_000)]
    lines = [f"{b} = Relu({a})" for a, b in pairwise(names)]
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[16,3,1,1] first, float[4,16,1,1] last>
    {{
       t0 = Conv(x, first)
       {chr(10).join(lines)}
       y = Conv({names[-1]}, last)
    }}
    """
    found = analyse(Model.from_proto(fill(onnx.parser.parse_model(text))))
    (group,) = found.free
    assert {m.constant.name for m in group.members} == {"first", "last"}

"""Rules of `ort-cpu`: taken back whole where the judge says so, with the reason told."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnxopt import match, verdicts
from onnxopt.base import Context
from onnxopt.bisect import Gate
from onnxopt.model import Model
from onnxopt.samples.base import Sample, Samples
from onnxopt_passes.fuse import softmax_axis, tentative, tune

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,5,8] x) => (float[N,5,8] y) { y = Softmax<axis = 1>(x) }
"""
(RULE,) = softmax_axis.ORT_CPU_RULES


def model() -> Model:
    return Model.from_proto(onnx.parser.parse_model(TEXT))


def content(model: Model) -> bytes:
    return bytes(model.export().whole().SerializeToString(deterministic=True))


def test_what_the_judge_refuses_leaves_no_trace() -> None:
    ours, gate = model(), Gate()
    context, before = Context(allow=gate, retract=gate.retract), content(model())
    reasons: list[str] = []
    token = match.MISSES.set(reasons)
    kept = tentative.keep(ours, RULE, context, lambda *_: "too slow")
    match.MISSES.reset(token)
    assert kept == 0
    assert not gate.made
    assert content(ours) == before
    assert context.untouched == {"softmax_axis": "1 rewrites not kept: too slow"}
    assert reasons == ["softmax_axis@y: too slow"]


def test_a_larger_file_is_not_kept_unless_there_is_room() -> None:
    room = model().export().nbytes
    context = Context()
    assert tune.keep_if_faster(model(), RULE, tune.Terms(context, timed=True, room=room)) == 0
    assert "bytes" in context.untouched["softmax_axis"]


@pytest.mark.parametrize("faster", [True, False])
def test_a_verdict_that_is_known_is_not_timed(monkeypatch, tmp_path, faster: bool) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tune, "_timed", lambda *_: pytest.fail("it is timed again"))
    asked: list[str] = []

    def known(key: str) -> dict[str, object]:
        asked.append(key)
        return {"faster": faster, "reason": "2 ms before, 3 ms after"}

    monkeypatch.setattr(verdicts, "recall", known)
    terms = tune.Terms(Context(), timed=True, room=10**6)
    assert tune.keep_if_faster(model(), RULE, terms) == int(faster)
    assert len(asked) == 1


def test_sizes_of_samples_threads_and_libraries_are_part_of_the_question(monkeypatch) -> None:
    asked: list[str] = []

    def known(key: str) -> dict[str, object]:
        asked.append(key)
        return {"faster": True, "reason": ""}

    monkeypatch.setattr(verdicts, "recall", known)

    def ask(count: int, **context: object) -> str:
        rows = [Sample({"x": np.ones((count, 5, 8), np.float32)})]
        ctx = Context(calibration=Samples(lambda: [lambda: rows[0]], "here", length=1), **context)
        tune.keep_if_faster(model(), RULE, tune.Terms(ctx, timed=True, room=10**6))
        return asked[-1]

    keys = [ask(1), ask(1), ask(7), ask(1, threads=2), ask(1, custom_ops=("libmine.so",))]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_verdicts_are_remembered(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = verdicts.key("rule", ["a"], 1), verdicts.key("rule", ["a"], 2)
    verdicts.remember(one, {"faster": True})
    assert verdicts.recall(one) == {"faster": True}
    assert verdicts.recall(other) is None


def test_a_broken_file_of_verdicts_is_no_error(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "onnxopt").mkdir()
    (tmp_path / "onnxopt" / "verdicts.json").write_text("[1")
    assert verdicts.recall("key") is None

"""Inputs that make onnxruntime crash, or run for ever, do not take onnxopt along."""

from __future__ import annotations

import os
import signal

import onnx.parser
import pytest

import onnxopt
from onnxopt import Model, trial
from onnxopt.runtime import Settings

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (int64[2] x) => (int64[2] y)
{
   a = Identity(x)
   y = Neg(a)
}
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


@pytest.fixture
def bad(monkeypatch):
    """Make runs on inputs that begin with 1 end as the test says."""
    endings = []

    class Fragile(trial.Session):
        def run(self, feed):
            if feed["x"][0] == 1:
                endings[0]()
            return super().run(feed)

    monkeypatch.setattr(trial, "Session", Fragile)
    return endings


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    signal.pause()


@pytest.mark.parametrize("ending", [crash, hang])
def test_inputs_that_end_the_process_are_left_out(bad, monkeypatch, ending) -> None:
    bad.append(ending)
    monkeypatch.setattr(trial, "PATIENCE", 0.5)
    exported = Model.from_proto(onnx.parser.parse_model(MODEL)).export()
    samples = list(trial.drawn(exported, Settings(), seed=0, n=12))
    assert 0 < len(samples) < 12
    assert all(s.feed["x"][0] != 1 for s in samples)


def test_a_run_goes_on_without_them(bad) -> None:
    bad.append(crash)
    result = onnxopt.optimize(onnx.parser.parse_model(MODEL), timing=False)
    assert [n.op_type for n in result.model.graph.node] == ["Neg"]
    assert result.report["proof"]["proven"]

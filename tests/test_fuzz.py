"""Random models keep what `clean` and `fuse` promise.

The suite draws the same few models every time. For a longer search, of other models each time:

    FUZZ_EXAMPLES=20000 pytest tests/test_fuzz.py
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import onnx
from fuzz.graphs import models
from hypothesis import HealthCheck, Phase, given, settings
from test_model_roundtrip import assert_same

from onnxopt import spec
from onnxopt.model import Exported, Model
from onnxopt.parity import Tolerance
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.testing import apply

if TYPE_CHECKING:
    import numpy as np
    from fuzz.graphs import Example

PIPELINES = ("clean", "fuse", "clean,fuse")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SLACK = 64
"""Bytes by which a file may grow: names that settle, fields that hold an empty string."""

COARSE = 1e-3
"""The noise of onnxruntime's MatMulNBits, which it may or may not put in for quantized weights."""


def whole(exported: Exported) -> bytes:
    return exported.whole().SerializeToString(deterministic=True)


def empty(feed: dict[str, np.ndarray]) -> bool:
    return any(array.size == 0 for array in feed.values())


def check_parity(before: Exported, after: Exported, example: Example) -> None:
    """Outputs are equal up to rounding on what the model was drawn with, at both levels."""
    tolerance = Tolerance()
    written = Session(before)
    want = [written.run(feed) for feed in example.feeds]
    deployed = Settings(optimize=True)
    levels = {"ORT_DISABLE_ALL": Settings()}
    try:
        session = Session(before, deployed)
        for feed, outputs in zip(example.feeds, want, strict=True):
            tolerance.learn(outputs, session.run(feed))
            if any(n.op_type == "DequantizeLinear" for n in before.proto.graph.node):
                for name in outputs:
                    tolerance.floors[name] = (COARSE, COARSE)
        levels["ORT_ENABLE_ALL"] = deployed
    except CannotRun:  # a defect of onnxruntime's own optimizations
        pass
    for level, choice in levels.items():
        session = Session(after, choice)
        for run, (feed, outputs) in enumerate(zip(example.feeds, want, strict=True)):
            try:
                got = session.run(feed)
            except CannotRun as e:
                if empty(feed) and "Reshape" in str(e):  # the one exception that `clean` documents
                    continue
                raise
            drift, guilty = tolerance.breach(outputs, got)
            assert guilty is None, f"{level}, run {run}: {guilty} (drift {drift:.3g})"


def check(passes: str, before: Exported, example: Example) -> None:
    """Assert all that a pipeline promises."""
    pipeline = spec.parse(passes)
    after, edits = apply(pipeline, before)
    assert (whole(after) != whole(before)) == bool(edits), f"{edits} edits are not honest"
    onnx.checker.check_model(after.whole(), full_check=True)
    for field in ("input", "output"):
        old, new = (
            [v.SerializeToString(deterministic=True) for v in getattr(m.proto.graph, field)]
            for m in (before, after)
        )
        assert old == new, f"the {field}s changed"
    check_parity(before, after, example)
    assert whole(apply(pipeline, before)[0]) == whole(after), "two runs give different bytes"
    settled, more = apply(pipeline, after)
    assert more == 0, f"a second run makes {more} edits"
    assert whole(settled) == whole(after), "a second run changes the model"
    if passes == "clean":
        grown = len(whole(after)) - len(whole(before))
        assert grown <= SLACK, f"the file grows by {grown} bytes"


@settings(
    max_examples=EXAMPLES or 120,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(models())
def test_random_models(example: Example) -> None:
    before = Model.from_proto(example.proto).export()
    assert_same(before.whole(), example.proto)
    for passes in PIPELINES:
        check(passes, before, example)

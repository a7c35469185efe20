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

ZERO = "Product cannot be 0 in combination with -1"
"""What onnxruntime says of shapes that its own optimizations made from those of empty tensors."""


def whole(exported: Exported) -> bytes:
    return exported.whole().SerializeToString(deterministic=True)


def empty(feed: dict[str, np.ndarray]) -> bool:
    return any(array.size == 0 for array in feed.values())


def open_session(exported: Exported, settings: Settings) -> Session | None:
    """Load a model; None where a defect of onnxruntime's own optimizations forbids it."""
    try:
        return Session(exported, settings)
    except CannotRun as e:
        if settings.optimize and ZERO in str(e):
            return None
        raise


def run(session: Session, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Run a model; None for the one exception that `clean` documents."""
    try:
        return session.run(feed)
    except CannotRun as e:
        if empty(feed) and "Reshape" in str(e):
            return None
        raise


def learned(before: Exported, wanted: list[dict[str, np.ndarray]], example: Example) -> Tolerance:
    """Return the noise floor of a model."""
    tolerance = Tolerance()
    session = Session(before, Settings(optimize=True))
    for feed, want in zip(example.feeds, wanted, strict=True):
        tolerance.learn(want, session.run(feed))
    return tolerance


def check_parity(before: Exported, after: Exported, example: Example) -> None:
    """Outputs are equal up to rounding on what the model was drawn with, at both levels."""
    written = Session(before)
    wanted = [written.run(feed) for feed in example.feeds]
    levels = {"ORT_DISABLE_ALL": Settings(), "ORT_ENABLE_ALL": Settings(optimize=True)}
    try:
        tolerance = learned(before, wanted, example)
    except CannotRun:  # a defect of onnxruntime's own optimizations
        tolerance = Tolerance()
        del levels["ORT_ENABLE_ALL"]
    if any(n.op_type == "DequantizeLinear" for n in before.proto.graph.node):
        # What onnxruntime makes of Q/DQ pairs depends on what stands around them: a run's proof
        # refuses such a rewrite, and here there is no proof.
        levels.pop("ORT_ENABLE_ALL", None)
    for level, settings_ in levels.items():
        session = open_session(after, settings_)
        if session is None:
            continue
        for i, (feed, want) in enumerate(zip(example.feeds, wanted, strict=True)):
            got = run(session, feed)
            if got is not None:
                drift, guilty = tolerance.breach(want, got)
                assert guilty is None, f"{level}, run {i}: {guilty} (drift {drift:.3g})"


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
    settled, more = apply(pipeline[-1:], after)  # a later pass may make work for an earlier one
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

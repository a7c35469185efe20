"""Raise a model's opset where a form needs it, and prove that nothing else changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import version_converter

from onnxopt.errors import ModelError, SamplesError
from onnxopt.model import Model
from onnxopt.parity import compare
from onnxopt.runtime import CannotRun, Session
from onnxopt.samples import synthetic

if TYPE_CHECKING:
    from onnxopt.base import Context

ROUNDING = 1e-4
"""Drift that two versions of the same operators may show."""


def raise_to(model: Model, version: int, ctx: Context) -> str:
    """Bring a model to an opset at least; return why that cannot be done, empty if it is.

    Args:
        model: Edited in place; unchanged if a reason is returned.
        version: The opset that is needed.
        ctx: Its first calibration sample, else drawn inputs, are what both are compared on.
    """
    if model.opset >= version:
        return ""
    exported = model.export()
    try:
        before = exported.whole()
        after = version_converter.convert_version(before, version)
        onnx.checker.check_model(after)
        raised = Model.from_proto(after)
    except (ModelError, RuntimeError, ValueError, onnx.checker.ValidationError) as e:
        return (
            f"opset {model.opset} cannot be raised to {version}: {' '.join(str(e).split())[:200]}"
        )
    samples = ctx.calibration or synthetic(exported.inputs, seed=ctx.seed, n=1)
    try:
        sample = next(iter(samples))
        want = Session(exported).run(sample.feed)
        got = Session(raised.export()).run(sample.feed)
    except (CannotRun, SamplesError, StopIteration) as e:
        return f"opset {model.opset} cannot be raised to {version}: that cannot be proven: {e}"
    drift = max((d.drift for d in compare(want, got).values()), default=0.0)
    if not np.isfinite(drift) or drift > ROUNDING:
        return f"opset {model.opset} cannot be raised to {version}: outputs change by {drift:.2g}"
    model.graph, model.header = raised.graph, raised.header
    return ""

"""onnx's backend tests as data: a model, inputs and the outputs that the standard expects."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from corpus import data_sets, node_cases
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from onnxopt import spec
from onnxopt.model import Model
from onnxopt.testing import apply

STORED = ("simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class BackendCase:
    """One data set of one test."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float


def cases() -> list[BackendCase]:
    """All cases: generated ones of single nodes, and those that the wheel holds as files."""
    found = []
    for test in node_cases():
        for inputs, outputs in test.data_sets:
            found.append(
                BackendCase(
                    test.name,
                    test.model,
                    [_array(x) for x in inputs],
                    [_array(x) for x in outputs],
                    test.rtol,
                    test.atol,
                )
            )
    for kind in STORED:
        for test in load_model_tests(kind=kind):
            model = onnx.load(Path(test.model_dir) / "model.onnx")
            for inputs, outputs in data_sets(test.model_dir, model):
                found.append(BackendCase(test.name, model, inputs, outputs, test.rtol, test.atol))
    return found


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return value


def session(model: onnx.ModelProto, optimize: bool) -> onnxruntime.InferenceSession:
    """Load a model into plain onnxruntime, as any user would."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def holds(case: BackendCase, model: onnx.ModelProto, optimize: bool) -> str:
    """Run a model on a case; return what is wrong, empty if outputs are as expected."""
    feed = dict(zip((v.name for v in case.model.graph.input), case.inputs, strict=False))
    try:
        got = session(model, optimize).run(None, feed)
        Runner.assert_similar_outputs(case.outputs, got, rtol=case.rtol, atol=case.atol)
    except Exception as e:  # noqa: BLE001  # whatever goes wrong is the answer
        return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    return ""


def optimized(model: onnx.ModelProto, passes: str, target: str) -> onnx.ModelProto:
    """Run passes without the proof, which would hide what they do wrong."""
    chosen = spec.complete(spec.parse(passes))
    return apply(chosen, Model.from_proto(model).export(), target)[0].whole()


def judge(case: BackendCase, passes: str, target: str = "portable") -> tuple[bool, str]:
    """Return whether plain onnxruntime passes a case, and what our result does wrong."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        counts = not holds(case, case.model, optimize=False)
        try:
            model = optimized(case.model, passes, target)
        except Exception as e:  # noqa: BLE001  # no model may make a pass raise
            return counts, f"passes raise {type(e).__name__}: {e}"
        for what in ("input", "output"):
            if getattr(case.model.graph, what) != getattr(model.graph, what):
                return counts, f"the {what}s changed"
        if not counts:
            return counts, _valid(case.model, model)
        return counts, holds(case, model, optimize=False) or holds(case, model, optimize=True)


def _valid(source: onnx.ModelProto, model: onnx.ModelProto) -> str:
    """What onnxruntime cannot run is still written back valid, if it was."""
    try:
        onnx.checker.check_model(source, full_check=True)
    except Exception:  # noqa: BLE001  # then nothing can be asked of the result
        return ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:  # noqa: BLE001
        return f"no longer valid: {' '.join(str(e).split())[:200]}"
    return ""

"""What holds of a model without running it: it is valid, and its interface is the same."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnxopt.errors import ModelError
from onnxopt.model.interface import LOCATION

if TYPE_CHECKING:
    from onnxopt.model import Exported


def complaint(model: Exported, full: bool = True) -> str | None:
    """Run onnx.checker, with full shape inference too; return its complaint on one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        (Path(folder) / LOCATION).touch()
        try:
            path.write_bytes(model.proto.SerializeToString())
            onnx.checker.check_model(str(path), full_check=full)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
            return " ".join(str(e).split())[:300]
        except (ValueError, RuntimeError, TypeError) as e:
            return f"onnx.checker fails: {' '.join(str(e).split())[:300]}"
    return None


def interface_change(source: Exported, model: Exported) -> str:
    """Return how descriptions or defaults of inputs and outputs differ; empty if they do not."""
    for what in ("input", "output"):
        old, new = (list(getattr(m.proto.graph, what)) for m in (source, model))
        names = [[v.name for v in values] for values in (old, new)]
        if names[0] != names[1]:
            gone = [n for n in names[0] if n not in names[1]]
            return f"{what} {gone[0]!r} is gone" if gone else f"the {what}s are {names[1]}"
        for a, b in zip(old, new, strict=True):
            if a.type != b.type:
                return f"{what} {a.name!r} changed its type"
            if a != b:
                return f"{what} {a.name!r} changed its doc string or metadata"
    if source.proto.ir_version >= 4:
        declared = {v.name for v in source.proto.graph.input}
        old_defaults, new_defaults = (
            {t.name: t for t in m.proto.graph.initializer if t.name in declared}
            for m in (source, model)
        )
        for name, tensor in old_defaults.items():
            if (
                name not in new_defaults
                or tensor.SerializeToString() != new_defaults[name].SerializeToString()
            ):
                return f"the default of input {name!r} changed"
    return ""


ADDRESSES = 2**47
"""Bytes that a process can address on today's processors; no tensor is larger."""


def _absurd(source: Exported) -> str:
    """Return why no machine can run a model, whatever its operators; empty if some could."""
    if not source.outputs:
        return "it has no outputs, so there is nothing to compute"
    for port in source.inputs:
        sizes = [d for d in port.shape or () if isinstance(d, int) and d > 0]
        if math.prod(sizes) * (port.dtype.itemsize if port.dtype else 1) > ADDRESSES:
            return f"input {port.name!r} is larger than any memory: {port}"
    return ""


def validate(source: Exported, custom_ops: tuple[str, ...]) -> str:
    """Decide whether a source is a model at all.

    Returns:
        What the report should note; empty if all is well.

    Raises:
        ModelError: It has no outputs, or an absurd input; or neither onnx.checker nor onnxruntime
            takes it, and not because it is newer or uses operators that they do not know.
    """
    absurd = _absurd(source)
    if absurd:
        raise ModelError(f"the model is not valid: {absurd}")
    found = complaint(source)
    if found is None:
        return ""
    from onnxopt.runtime import CannotRun, Session, Settings

    proto = source.proto
    newest = onnx.defs.onnx_opset_version()
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset > newest:
        return f"opset {opset} is newer than this onnx knows ({newest}); it is not checked"
    try:
        Session(source, Settings(custom_ops=custom_ops, lean=True))
    except CannotRun as e:
        raise ModelError(f"the model is not valid: {found}") from e
    return f"onnx.checker objects to the source, onnxruntime runs it: {found}"

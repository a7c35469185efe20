"""Mend what exact passes can mend: proven, and the file replaced whole or not at all."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.errors import OnnxoptError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

PASSES = "clean,fuse"


@dataclass(frozen=True)
class Fix:
    """What became of a file.

    Attributes:
        path: The file.
        edits: How many edits the passes made.
        changed: Whether the file was, or in a trial would be, replaced.
        reason: Why it was not; empty if all is well.
        diff: The difference of its nodes as a unified diff.
    """

    path: Path
    edits: int = 0
    changed: bool = False
    reason: str = ""
    diff: str = ""


def fix(path: Path, write: bool) -> Fix:
    """Run the exact passes over a file; replace it only if they are proven to keep what it does.

    Args:
        path: The file.
        write: False to see what would be done.
    """
    from onnxopt.api import optimize
    from onnxopt.model import files

    if path.is_symlink() and write:
        path = path.resolve()
    if write and not os.access(path, os.W_OK):
        return Fix(path, reason="the file may not be written to")
    try:
        result = optimize(path, PASSES, output=None, timing=write)
    except OnnxoptError as e:
        return Fix(path, reason=str(e))
    proof = result.report["proof"]
    if not proof["proven"]:
        return Fix(path, reason=f"not proven, so left as it is: {proof['reason']}")
    edits = sum(step.edits for step in result.steps)
    before, _ = files.read(path)
    diff = _diff(path, before, result.exported.proto)
    if not edits and not diff:
        return Fix(path)
    if write:
        external = any(t.external_data for t in before.graph.initializer)
        files.write(path, result.exported.proto, result.exported.weights, external)
    return Fix(path, edits, True, diff=diff)


def _diff(path: Path, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """Return how the nodes of a file change, as a unified diff of their text."""
    old, new = _nodes(before), _nodes(after)
    lines = difflib.unified_diff(old, new, str(path), f"{path} (fixed)", lineterm="", n=2)
    return "\n".join(lines)


def _nodes(proto: onnx.ModelProto) -> list[str]:
    """Return a line a node and weight, without values."""
    from onnxopt.model.interface import numpy_dtype

    weights = [
        f"weight {t.name}: {numpy_dtype(t.data_type)}{list(t.dims)}"
        for t in proto.graph.initializer
    ]
    nodes = [f"{', '.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in proto.graph.node]
    return [*sorted(weights), *nodes]

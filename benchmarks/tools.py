"""onnxopt and its peers, each as a user would call it, with its own defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSES = "clean,fuse"

MESSAGE = 2**31 - 2**20
"""Bytes; larger messages cannot be written as one file."""


def onnxopt_rewriting(source: Path, target: Path) -> None:
    """Load, run the passes as the pipeline does, save: all but the proof."""
    from onnxopt import settle, spec
    from onnxopt.base import Context
    from onnxopt.bisect import Gate
    from onnxopt.model import Model, files

    current = Model.load(source).export()
    passes = spec.complete(spec.parse(PASSES))
    for item in passes:
        model, gate = Model.from_exported(current, source), Gate()
        settle.run(item, model, Context(allow=gate, retract=gate.retract), passes)
        current = model.export()
    files.write(target, current.proto, current.weights, False)


def onnxopt_proven(source: Path, target: Path) -> dict[str, object]:
    """Rewrite, prove on drawn inputs, write; return the report's `proof` and the edits undone."""
    import onnxopt

    report = onnxopt.optimize(source, PASSES, output=target, timing=False).report
    return {**report["proof"], "undone": [i for s in report["steps"] for i in s["undone"]]}


def onnxopt_clean(source: Path, target: Path) -> None:
    """Run `clean` with its proof, and write."""
    import onnxopt

    onnxopt.optimize(source, "clean", output=target, timing=False)


def onnxslim(source: Path, target: Path) -> None:
    """Run onnxslim from file to file."""
    import onnxslim as tool

    if tool.slim(str(source), str(target)) is None and not target.exists():
        raise RuntimeError("it writes nothing")


def onnxsim(source: Path, target: Path) -> None:
    """Run onnxsim from file to file."""
    import onnxsim as tool

    _save(tool.simplify(str(source))[0], target)


def onnxscript(source: Path, target: Path) -> None:
    """Run onnxscript's optimizer from file to file."""
    from onnxscript import optimizer

    _save(optimizer.optimize(onnx.load(source)), target)


def _save(model: onnx.ModelProto, target: Path) -> None:
    try:
        large = model.ByteSize() > MESSAGE
    except Exception:  # noqa: BLE001  # protobuf has several ways to say that it is too large
        large = True
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data")


FILES: dict[str, Callable[[Path, Path], object]] = {
    "onnxopt": onnxopt_rewriting,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxscript": onnxscript,
}
"""By name: file to file, without any check of the result but what the tool does by default."""


def import_all(tool: str) -> None:
    """Import what a tool needs, so that no measured call pays for it."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    if tool == "onnxopt":
        from onnxopt import api  # noqa: F401
    else:
        __import__("onnxscript.optimizer" if tool == "onnxscript" else tool)


def nodes(model: onnx.ModelProto) -> int:
    """Return the number of nodes, bodies of Ifs and Loops and local functions included."""
    stack = [model.graph.node, *(f.node for f in model.functions)]
    count = 0
    while stack:
        found = stack.pop()
        count += len(found)
        for node in found:
            for a in node.attribute:
                stack += [g.node for g in ([a.g] if a.HasField("g") else a.graphs)]
    return count

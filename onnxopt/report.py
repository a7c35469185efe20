"""What a run found out, as the JSON that `--json`, `--report` and `Result.report` give."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import runtime
from onnxopt.model import wire
from onnxopt.proof import SCORED
from onnxopt.samples.base import HOLDOUT

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.cost import Cost
    from onnxopt.job import Run, Step
    from onnxopt.latency import Latency
    from onnxopt.model import Exported

SCHEMA_VERSION = 1


class _Digest:
    """A file that keeps only its hash and its size."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.nbytes = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Hash bytes."""
        self.sha256.update(data)
        self.nbytes += len(data)
        return len(data)


def build(
    run: Run,
    latency: Latency | None,
    version: str,
    source: Path | None,
    written: Path | None,
    seconds: float,
    detail: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a run; all values are plain JSON, NaN and infinity as None.

    Args:
        run: What the pipeline found.
        latency: Times before and after; None where nothing could be run.
        version: onnxopt's version.
        source: Where the source came from.
        written: Where the result went; None if it was not written.
        seconds: Wall time of the whole run.
        detail: What `details.build` gives; None where that was not asked for.
    """
    last = run.steps[-1].cost if run.steps else run.source_cost
    report = {
        "schema_version": SCHEMA_VERSION,
        "versions": {"onnxopt": version, "onnxruntime": runtime.version()},
        "source": _model(run.source, run.source_cost, source),
        "result": _model(run.result, last, written),
        "steps": [_step(s) for s in run.steps],
        "proof": _proof(run),
        "latency": None if latency is None else _latency(latency),
        "untouched": [
            {"pass": s.spec, "name": name, "reason": reason}
            for s in run.steps
            for name, reason in s.untouched.items()
        ],
        "notes": [*run.notes, *(note for s in run.steps for note in s.notes)],
        "detail": detail,
        "seconds": seconds,
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def _model(exported: Exported, cost: Cost, path: Path | None) -> dict[str, Any]:
    digest = _Digest()
    wire.join(exported.proto, exported.weights, digest)
    opsets = {o.domain or "ai.onnx": o.version for o in exported.proto.opset_import}
    return {
        "path": None if path is None else str(path),
        "sha256": digest.sha256.hexdigest(),
        "bytes": digest.nbytes,
        "nodes": cost.nodes,
        "params": cost.params,
        "macs": cost.macs,
        "opset": opsets.get("ai.onnx"),
        "opsets": opsets,
        "op_histogram": cost.ops,
    }


def _step(step: Step) -> dict[str, Any]:
    verdict = step.outcome.verdict
    return {
        "pass": step.spec,
        "edits": step.edits,
        "undone": list(step.undone),
        "reasons": list(step.reasons),
        "unproven_edits": step.unproven_edits,
        "held_back": step.held_back,
        "seconds": step.seconds,
        "proof_seconds": step.proof_seconds,
        "drift": step.outcome.drift,
        "drop": None if verdict is None else verdict.drop,
        "bytes": step.cost.nbytes,
        "nodes": step.cost.nodes,
        "macs": step.cost.macs,
        "params": step.cost.params,
        "ops": step.ops,
        "notes": list(step.notes),
        "evidence": step.evidence,
    }


def _proof(run: Run) -> dict[str, Any]:
    proof = run.proof
    verdict = next(
        (s.outcome.verdict for s in reversed(run.steps) if s.outcome.verdict is not None), None
    )
    drifts = [s.outcome.drift for s in run.steps if s.outcome.drift is not None]
    certificates = {
        s.spec: s.evidence["certificate"] for s in run.steps if "certificate" in s.evidence
    }
    return {
        "proven": not proof.unproven,
        "reason": proof.unproven or None,
        "objection": run.objection or None,
        "metric": None if verdict is None else verdict.metric,
        "value": None if verdict is None else verdict.value,
        "drop": None if verdict is None else verdict.drop,
        "drop_error": None if verdict is None else verdict.error,
        "max_drop": proof.terms.max_drop,
        "foreseen": None if verdict is None else verdict.foreseen,
        "upper_bound": proof.terms.upper_bound,
        "samples_needed": None if verdict is None else verdict.needed(proof.terms.max_drop),
        "most_scored": SCORED,
        "held_out": HOLDOUT,
        "samples": proof.samples if verdict is None else verdict.samples,
        "compared": proof.samples,
        "synthetic": proof.synthetic,
        "source": "drawn" if proof.holdout is None else proof.holdout.source,
        "drawn": proof.drawn,
        "drift": max(drifts, default=None),
        "noise_floor": proof.noise.floor if not proof.unproven else None,
        "not_compared": sorted(proof.noise.skipped),
        "unreached_branches": list(proof.unreached),
        "certificate": certificates or None,
    }


def _latency(latency: Latency) -> dict[str, Any]:
    return {
        "before_ms": 1e3 * latency.before.median,
        "after_ms": 1e3 * latency.after.median,
        "before_min_ms": 1e3 * latency.before.minimum,
        "after_min_ms": 1e3 * latency.after.minimum,
        "before_spread_ms": 1e3 * latency.before.spread,
        "after_spread_ms": 1e3 * latency.after.spread,
        "ratio": latency.ratio,
        "threads": latency.threads,
        "runs": latency.before.runs,
    }


def _plain(value: Any) -> Any:
    """Return a value that any JSON parser reads."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

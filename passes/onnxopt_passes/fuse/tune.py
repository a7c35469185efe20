"""Rewrites that pay only on this runtime and CPU: kept where the model at hand gets faster.

A rule is applied to the whole model; the model before and after are timed in turn at
ORT_ENABLE_ALL, and the rule's edits stay only if both minimum and median fall by more than a
hundredth. The verdict is remembered by onnxruntime's version, the CPU's features, and what the rule
found (ops, types and shapes), so that a second run decides the same without timing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt import rewrite, runtime, shapes, trial
from onnxopt.errors import SamplesError
from onnxopt.model import Model
from onnxopt.rewrite import edit_id
from onnxopt.runtime import CannotRun, Session, Settings

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.rewrite import Rule

GAIN = 0.99
"""Ratio of times below which a rewrite is kept."""

SECONDS = 0.8
"""Time spent on one comparison."""

DRAWS = 16
"""Inputs drawn to find one that the model runs on, where there are no samples."""


def keep_if_faster(model: Model, rule: Rule, ctx: Context, timed: bool) -> int:
    """Apply a rule to a model, and take it back unless the model gets faster.

    Args:
        model: Its graph is replaced where the rule is taken back.
        rule: The rule.
        ctx: Asked before each edit; told why a rule was not kept.
        timed: False keeps every rewrite.

    Returns:
        How many edits stayed.
    """
    before = model.export()
    shapes.infer(model)
    sites = _sites(model, rule)
    made: list[str] = []

    def allow(edit: str) -> bool:
        allowed = ctx.allow(edit)
        if allowed:
            made.append(edit)
        return allowed

    def retract(edit: str) -> None:
        made.remove(edit)
        ctx.retract(edit)

    edits = rewrite.apply(model, (rule,), replace(ctx, allow=allow, retract=retract))
    if not edits or not timed:
        return edits
    verdict = _verdict(before, model.export(), ctx, _key(rule, [sites[m] for m in made]))
    if verdict.get("faster"):
        return edits
    for edit in made:
        ctx.retract(edit)
    fresh = Model.from_exported(before, model.path)
    model.graph, model.header = fresh.graph, fresh.header
    ctx.untouched[rule.name] = f"{edits} rewrites not kept: {verdict['reason']}"
    return 0


def _sites(model: Model, rule: Rule) -> dict[str, str]:
    """Return what stands at each place where a rule may fire, by edit id."""
    found = {}
    for path, graph in model.graphs():
        for node in graph.nodes:
            if node.op in rule.anchors:
                out = node.outputs[0] if node.outputs else None
                what = None if out is None else (str(shapes.dtype(out)), shapes.dims(out))
                found[edit_id(rule.name, path, node)] = f"{node.op} {what}"
    return found


def _key(rule: Rule, sites: list[str]) -> str:
    text = json.dumps([rule.name, sorted(sites), runtime.version(), platform.processor(), _flags()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _flags() -> str:
    """Return the features of this CPU, empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return ""


def _verdict(before: Exported, after: Exported, ctx: Context, key: str) -> dict[str, Any]:
    known = _remembered()
    if key in known:
        found: dict[str, Any] = known[key]
        return found
    verdict = _timed(before, after, ctx)
    if "times" in verdict:
        _remember(key, verdict)
    return verdict


def _timed(before: Exported, after: Exported, ctx: Context) -> dict[str, Any]:
    settings = Settings(optimize=True, threads=ctx.threads)
    try:
        sessions = [Session(m, settings) for m in (before, after)]
        feed = _feed(before, sessions[0], ctx)
        old, new = runtime.interleave(sessions, feed, SECONDS)
    except (CannotRun, SamplesError) as e:
        return {"faster": False, "reason": f"the model cannot be timed: {e}"}
    faster = new.median < GAIN * old.median and new.minimum < GAIN * old.minimum
    reason = f"{1e3 * old.median:.3g} ms before, {1e3 * new.median:.3g} ms after"
    return {"faster": faster, "reason": reason, "times": [old.median, new.median]}


def _feed(model: Exported, session: Session, ctx: Context) -> dict[str, Any]:
    """Return inputs to time on: a real sample, or drawn ones that the model runs on.

    Raises:
        SamplesError: There are none.
    """
    real = ctx.calibration is not None and not ctx.calibration.synthetic
    drawn = partial(trial.drawn, model, session.settings, seed=ctx.seed, n=DRAWS)
    samples = ctx.calibration if real else drawn()
    for sample in samples or ():
        with contextlib.suppress(CannotRun):
            session.run(sample.feed)
            return sample.feed
    raise SamplesError("no inputs were found that it runs on")


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxopt" / "verdicts.json"


def _remembered() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _remember(key: str, verdict: dict[str, Any]) -> None:
    """Add a verdict to the cache; one that cannot be written is only timed again."""
    with contextlib.suppress(OSError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_remembered() | {key: verdict}, indent=1)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)

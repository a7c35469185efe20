"""The modes, and the steps from one to the next where it does not pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import metrics, shapes, verdicts
from onnxopt.errors import SamplesError
from onnxopt.model import Model
from onnxopt.runtime import CannotRun
from onnxopt.statistics import ranges
from onnxopt_passes.quant import (
    cpu,
    decide,
    holding,
    ledger,
    opset,
    plan,
    pooling,
    trial,
    weight_only,
)
from onnxopt_passes.quant.converter import Converter
from onnxopt_passes.quant.dynamic_search import DynamicSearch
from onnxopt_passes.quant.options import DATA
from onnxopt_passes.quant.plan import Plan
from onnxopt_passes.quant.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt_passes.quant import Quant

STATIC_OPSET = 13
"""DequantizeLinear with an axis."""

DYNAMIC_OPSET = 11
"""DynamicQuantizeLinear."""

FULL_RANGE = (
    "integers use their full range, which x64 CPUs without VNNI saturate:"
    " quant:cpu=generic makes a file that is right there too"
)


def quantize(model: Model, q: Quant, ctx: Context) -> int:
    """Quantize in the mode that is asked for, or that fits; return the number of edits.

    Raises:
        SamplesError: The mode needs samples, and there are none.
    """
    profile = cpu.detect() if q.cpu == "auto" else q.cpu
    mode: str = q.mode
    why = "it was asked for"
    try:
        if mode == "auto":
            mode, why = decide.mode(model, ctx)
    except CannotRun as e:
        mode, why = "weights", f"onnxruntime cannot run the model: {e}"
    first, source = len(ctx.notes), model.export()
    edits, floats = 0, dict[str, str]()
    if mode in DATA:
        edits, floats = _integers(model, q, ctx, mode, profile)
        if not edits:
            why = f"{mode} was tried ({why}), and nothing pays in integers"
            mode = "weights"
    ctx.notes.insert(first, f"mode {mode}: {why}; cpu {profile}")
    if edits and profile == "x64-vnni" and q.cpu == "auto":
        ctx.notes.insert(first + 1, FULL_RANGE)
    edits += weight_only.quantize_weights(model, q, ctx, source)
    ledger.complete(model, ctx, floats)
    return edits


def _integers(
    model: Model, q: Quant, ctx: Context, mode: str, profile: str
) -> tuple[int, dict[str, str]]:
    """Run the modes that compute in integers; return edits, and units in float with reasons."""
    if ctx.calibration is None:
        raise SamplesError(f"quant: mode={mode} needs calibration data: give --calib PATH")
    edits, floats = 0, dict[str, str]()
    steps = {"hybrid": ("static", "dynamic")}.get(mode, (mode,))
    for step in steps:
        work = model.clone()
        needed = STATIC_OPSET if step == "static" else DYNAMIC_OPSET
        reason = opset.raise_to(work, needed, ctx)
        if reason:
            ctx.notes.append(f"not {step}: {reason}")
            continue
        try:
            search = Search(work, q, ctx, step, profile, products=mode != "hybrid")
            decided = search.plan()
        except CannotRun as e:
            ctx.notes.append(f"not {step}: onnxruntime cannot run it: {e}")
            continue
        floats |= decided.floats
        allowed = [n for n in sorted(decided.chosen) if ctx.allow(f"{step}@{n}")]
        if allowed:
            made = Model.from_exported(search.build(allowed), model.path)
            model.graph, model.header = made.graph, made.header
            edits += len(allowed)
    return edits, floats


class Search:
    """One mode on one model: its plan, remembered, and the model that a plan makes."""

    def __init__(
        self, model: Model, q: Quant, ctx: Context, step: str, profile: str, products: bool
    ) -> None:
        self.q, self.ctx, self.step, self.profile = q, ctx, step, profile
        self.source = model.export()
        assert ctx.calibration is not None  # noqa: S101  # `_integers` has asked
        fit, check = trial.parts(ctx.calibration, self.source, ctx.seed)
        self.trial = Trial(self.source, check, ctx, fit)
        shapes.infer(model)
        self.search: Converter | DynamicSearch
        if step == "static":
            pooling.write(model)
            self.search = Converter(model, q, ctx, profile, fit, self.trial, products)
        else:
            self.search = DynamicSearch(model, q, ctx, profile, fit, self.trial)
        parts = [
            plan.LAYOUT,
            repr(q),
            step,
            profile,
            ctx.max_drop,
            metrics.fingerprint(ctx.metric),
            ctx.threads,
            ctx.custom_ops,
            ctx.target,
            products,
        ]
        data = [ranges.fingerprint(self.source, part, ()) for part in (fit, check)]
        self.key = verdicts.key(data, *parts)
        self.model = model

    def build(self, chosen: Collection[str]) -> Exported:
        """Return the model with these units in integers."""
        return self.search.build(chosen)

    def plan(self) -> Plan:
        """Return the plan: the recipe's, the remembered one, or a new one.

        Raises:
            CannotRun: onnxruntime cannot run the model.
            SpecError: The recipe is no recipe.
        """
        held = None if self.q.recipe is None else plan.read(f"{self.q.recipe}.{self.step}")
        remembered = verdicts.recall(self.key)
        if held is None and remembered is not None:
            held = Plan.from_dict(remembered["plan"])
            self.ctx.notes.extend(remembered["notes"])
            self.ctx.evidence.update(remembered["evidence"])
        if held is None:
            held = self._remembered()
        else:
            self.search.adopt(held)
        if self.q.recipe is not None:
            plan.write(f"{self.q.recipe}.{self.step}", held)
        self.ctx.evidence[self.step] = held.to_dict()
        return held

    def _remembered(self) -> Plan:
        """Return a new plan, and remember it with what was said about it."""
        said, shown = len(self.ctx.notes), set(self.ctx.evidence)
        found = self._new()
        evidence = {k: v for k, v in self.ctx.evidence.items() if k not in shown}
        held = {"plan": found.to_dict(), "notes": self.ctx.notes[said:], "evidence": evidence}
        verdicts.remember(self.key, held)
        return found

    def _new(self) -> Plan:
        found = self.search.run()
        candidates = len(found.chosen) + len(found.floats)
        words = f"{self.step}: {len(found.chosen)} of {candidates} units"
        if found.chosen and self.q.timed:
            made = self.build(found.chosen)
            won, times = holding.faster(self.source, made, self.trial, self.ctx, holding.CLEARLY)
            words += f", {times}"
            if not won:  # weights alone are as small, and exact
                found.leave(set(found.chosen), f"the whole is not clearly faster: {times}")
        self.ctx.notes.append(words)
        return found

"""A rule applied to a whole model, and taken back unless a judge is content with the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxopt import match, rewrite
from onnxopt.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt.rewrite import Rule

    Judge = Callable[[Exported, Exported, list[str]], str]
    """Takes the model before and after and the ids of the edits between; returns why they are to
    be taken back, an empty text if they may stay."""


def keep(model: Model, rule: Rule, ctx: Context, judge: Judge) -> int:
    """Apply a rule to a model, and take it back unless a judge is content.

    Args:
        model: Its graph is replaced where the rule is taken back.
        rule: The rule.
        ctx: Asked before each edit; told why a rule was not kept.
        judge: Asked once, if there are edits.

    Returns:
        How many edits stayed.
    """
    before = model.export()
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
    reason = judge(before, model.export(), made) if edits else ""
    if not reason:
        return edits
    for edit in made:
        ctx.retract(edit)
        match.report(edit, reason)
    fresh = Model.from_exported(before, model.path)
    model.graph, model.header = fresh.graph, fresh.header
    ctx.untouched[rule.name] = f"{edits} rewrites not kept: {reason}"
    return 0


def oversize(before: Exported, after: Exported, room: int) -> str:
    """Return that a file has grown beyond its room; an empty text if it has not.

    Args:
        before: The model before a rule.
        after: And after it.
        room: Bytes that it may take in any case.
    """
    if after.nbytes <= max(room, before.nbytes):
        return ""
    return f"the file would take {after.nbytes:,} bytes, the source takes {room:,}"

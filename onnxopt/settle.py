"""A pass, and those that tidy behind it, in turn until one of the two finds nothing.

What a pass makes may open something to a pass that has run before: an op of a newer opset makes
sizes known, shape arithmetic falls away with them, and what read it may then be fused. A second run
of the pipeline would find that; so the first one does (`Pass.followed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, registry
from onnxopt.errors import PassError
from onnxopt.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.base import Context, Pass

ROUNDS = 16
"""Passes that have not settled by then undo each other's work."""


def run(item: Pass, model: Model, ctx: Context, earlier: Sequence[Pass] = ()) -> int:
    """Run a pass, then those that follow it, and so on until nothing is left to do.

    Args:
        item: The pass.
        model: Edited in place.
        ctx: Asked before each edit of all of them.
        earlier: Passes of the same pipeline; a follower has the options that it has there.

    Returns:
        How many edits all of them made.

    Raises:
        PassError: They do not settle.
    """
    total = item.run(model, ctx)
    followers = [_options(name, earlier) for name in item.followed]
    if not total or not followers:
        return total
    for _ in range(ROUNDS):
        made = _tidy(followers, model, ctx)
        more = 0
        if made:
            _read_again(model)
            more = item.run(model, ctx)
        total += made + more
        if not more:
            return total
    names = ", ".join(p.name for p in (item, *followers))
    raise PassError(f"{names} have not settled after {ROUNDS} rounds: they undo each other's work")


def _options(name: str, earlier: Sequence[Pass]) -> Pass:
    """Return the last earlier pass of that name, else one with its defaults."""
    found = [p for p in earlier if p.name == name]
    return found[-1] if found else registry.load(name)()


def _tidy(followers: Sequence[Pass], model: Model, ctx: Context) -> int:
    """Run the followers; what they stood back from is not what the pass is asked about."""
    token = match.MISSES.set(None)
    try:
        made = 0
        for follower in followers:
            _read_again(model)
            made += follower.run(model, ctx)
        return made
    finally:
        match.MISSES.reset(token)


def _read_again(model: Model) -> None:
    """Bring the nodes of a model into the order that a file of it would have."""
    fresh = Model.from_exported(model.export(), model.path)
    model.graph, model.header = fresh.graph, fresh.header

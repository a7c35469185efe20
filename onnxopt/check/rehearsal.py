"""OPT2xx, last part: what the exact passes would do, found by running them on a copy."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule
from onnxopt.check.fix import PASSES
from onnxopt.check.validity import broken, newer
from onnxopt.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.check.subject import Subject

LISTED = 4


def exact_passes(subject: Subject) -> Iterator[tuple[str, str]]:
    """The passes `clean` and `fuse` would take nodes out, or write them in a faster form.

    The other rules look for what is common; this one runs the passes on a copy and misses nothing.
    It runs with --runtime, --fix and --diff, as it takes longer. `--fix` makes the edits if they
    are proven and not slower; as that may fail, this is a note.
    """
    if broken(subject) or newer(subject):
        return
    from onnxopt import cost
    from onnxopt.forecast import forecasts
    from onnxopt.job import quiet
    from onnxopt.model import Model

    try:
        model = Model.load(subject.path)
    except ModelError:
        return  # OPT002 and OPT010 say why
    edits: Counter[str] = Counter()
    change, rewritten = 0, False
    for found in forecasts(model, "portable", quiet, PASSES.split(",")):
        edits.update(found.rules)
        change += found.nodes or 0
        rewritten = rewritten or (found.name == "fuse" and bool(found.edits))
    if change or rewritten:
        before = cost.measure(subject.stripped).nodes
        yield "", _said(edits, before, before + change)


def _said(edits: Counter[str], before: int, after: int) -> str:
    listed = ", ".join(f"{rule} {count}" for rule, count in edits.most_common(LISTED))
    more = ", ..." if len(edits) > LISTED else ""
    count = sum(edits.values())
    return (
        f"{PASSES.replace(',', ' and ')} would make {count:,} edit{'s' * (count > 1)}"
        f" ({listed}{more}) and leave {after:,} of {before:,} nodes"
    )


RULES = (Rule("OPT213", Level.NOTE, exact_passes, fixable=True, runtime=True),)

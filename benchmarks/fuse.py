"""What each rule of `fuse` is worth to onnxruntime, by itself.

A rule is measured on the real model that has most places for it, else on a small model of the
pattern that it is for (`patterns.py`). Before: the model after `clean`. After: the same with the
edits of this one rule; other rules are not allowed any. Both are loaded as deployed
(ORT_ENABLE_ALL, one thread) and run in turn; the clock is that of the thread. Above 1 the rule
makes it faster; rules that do what onnxruntime does itself when it loads a model stand at 1, and
are there for other runtimes.

Target: `ort-cpu` rules are kept only where they measure faster on the model at hand. Here they are
all kept, so that a ratio below 1 shows what timing is for. Rows of the target `no rule` compare
standard ops with the op that onnxruntime has of its own for them, which it mostly makes by itself.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

import onnx.parser
import patterns
import real_models
from pairs import in_rounds
from tables import number, progress, table

from onnxopt import spec
from onnxopt.base import Context
from onnxopt.bisect import Gate
from onnxopt.model import Model
from onnxopt.testing import fill
from onnxopt_passes.fuse import EARLY, LATE, RULES, Fuse

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.model import Exported

PARTNERS = {"norm_weight": ("rms_norm",), "norm_mean": ("norm_weight", "layer_norm")}
"""Rules that only bring a pattern into the order of another rule are measured with that."""

TARGETS = {
    "portable": ("unroll", "group_norm", *(r.name for r in RULES)),
    "ort-cpu": tuple(r.name for r in (*EARLY, *LATE)),
}


def cleaned(model: Model) -> Exported:
    """Return a model as `fuse` gets it."""
    for item in spec.complete(spec.parse("clean")):
        item.run(model, Context())
    return model.export()


def alone(exported: Exported, rule: str, target: str) -> tuple[Exported, int]:
    """Return a model with the edits of one rule, and how many they are."""
    gate = Gate()
    rules = (rule, *PARTNERS.get(rule, ()))

    def allow(edit: str) -> bool:
        return edit.partition("@")[0] in rules and gate(edit)

    model = Model.from_exported(exported)
    room = 2 * exported.nbytes
    context = Context(target=target, allow=allow, retract=gate.retract, source_bytes=room)
    Fuse(timed=False).run(model, context)
    return model.export(), len(gate.made)


def places(exported: Exported, target: str) -> Counter[str]:
    """Return how many edits each rule makes to a model, all rules taken together."""
    gate = Gate()
    context = Context(target=target, allow=gate, retract=gate.retract)
    Fuse(timed=False).run(Model.from_exported(exported), context)
    return Counter(edit.partition("@")[0] for edit in gate.made)


def row(rule: str, target: str, name: str, before: Exported) -> list[str]:
    """Measure one rule on one model."""
    after, edits = alone(before, rule, target)
    if not edits:
        return [rule, target, name, "only with others", *[""] * 4]
    return compared([rule, target, name, str(edits)], before, after)


def compared(head: list[str], before: Exported, after: Exported) -> list[str]:
    """Return a row: its head, the times of two models, and by how much the second is faster."""
    feed = real_models.feed(head[2], before.inputs)
    old, new = in_rounds(before, after, feed)
    times = [f"{number(1e3 * min(t))} / {number(1e3 * median(t))}" for t in (old, new)]
    pairs = median(a / b for a, b in zip(old, new, strict=True))
    return [*head, *times, number(min(old) / min(new)), number(pairs)]


def foreign() -> list[list[str]]:
    """Measure ops of onnxruntime's own against the standard ops that they stand for."""
    rows = []
    for name, texts in patterns.CONTRIB.items():
        progress("fuse", "no rule", name)
        before, after = (
            Model.from_proto(fill(onnx.parser.parse_model(text))).export() for text in texts
        )
        rows.append(compared([name, "no rule", "its pattern", "1"], before, after))
    return rows


def measured(sources: list[tuple[str, Path]]) -> list[list[str]]:
    """Measure every rule where it has most places."""
    models = {name: cleaned(Model.load(path)) for name, path in sources}
    rows: list[list[str]] = []
    for target, rules in TARGETS.items():
        counts = {name: places(exported, target) for name, exported in models.items()}
        for rule in dict.fromkeys(rules):
            progress("fuse", target, rule)
            name = max(models, key=lambda n: counts[n][rule], default="")
            if name and counts[name][rule]:
                rows.append(row(rule, target, name, models[name]))
            elif rule in patterns.PATTERNS:
                text = onnx.parser.parse_model(patterns.PATTERNS[rule])
                exported = cleaned(Model.from_proto(fill(text)))
                rows.append(row(rule, target, "its pattern", exported))
            else:
                rows.append([rule, target, "none here", *[""] * 5])
    return rows


def main() -> None:
    """Measure and print."""
    options = real_models.arguments(__doc__ or "").parse_args()
    chosen = real_models.chosen(options, light=False)
    rows = [*measured([(e.name, e.path) for e in chosen]), *foreign()]
    head = ["rule", "target", "model", "edits", "before ms", "after ms"]
    print(f"{__doc__}\nMilliseconds, least / median; ratio of the least, median ratio of pairs.\n")
    print(table([*head, "faster by least", "by pairs"], rows))


if __name__ == "__main__":
    main()

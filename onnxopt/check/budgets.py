"""OPT5xx: does it keep to what the project asks of its models?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule
from onnxopt.check.subject import STANDARD
from onnxopt.errors import ModelError, SamplesError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.check.subject import Subject

TIMED = 1.0
"""Seconds to spend on timing a model and its baseline in turn."""


def too_many_bytes(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model is larger than `max-bytes`, its external data included.

    `onnxopt run --passes clean,fuse` may do without a loss; pruning and quantization do more.
    """
    yield from _above("", "bytes", subject.nbytes, subject.budgets.max_bytes)


def too_many_params(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model has more parameters than `max-params`."""
    bound = subject.budgets.max_params
    if bound is not None:
        from onnxopt import cost

        yield from _above("", "parameters", cost.measure(subject.stripped).params, bound)


def too_many_macs(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model takes more multiply-accumulates than `max-macs`, dynamic dimensions taken as 1."""
    bound = subject.budgets.max_macs
    if bound is not None:
        from onnxopt import cost

        macs = cost.measure(subject.stripped).macs
        if macs is None:
            yield "", "its multiply-accumulates cannot be counted: a shape is unknown"
        else:
            yield from _above("", "multiply-accumulates", macs, bound)


def too_slow(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model takes more than `max-latency-ratio` times as long as its `baseline`.

    The two are timed in turn on this machine, on one thread, on a drawn input: the ratio holds
    where milliseconds do not. Needs onnxruntime, and runs wherever a baseline is given.
    """
    baseline, bound = subject.budgets.baseline, subject.budgets.max_latency_ratio
    if baseline is None:
        return
    if bound is None:
        raise SpecError("a baseline is given without max-latency-ratio; give both")
    ratio = _ratio(subject, Path(baseline))
    if isinstance(ratio, str):
        yield baseline, ratio
    elif ratio > bound:
        yield baseline, f"it takes {ratio:.2f} times as long as {baseline}; at most {bound:g} times"


def banned_op(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model uses an operator of `banned-ops`.

    Write an operator of another domain with its domain: `com.microsoft.Attention`; a domain whole
    as `com.microsoft.*`.
    """
    banned = set(subject.budgets.banned_ops)
    for scope in subject.scopes if banned else ():
        for node in scope.nodes:
            plain = node.domain in STANDARD
            name = node.op_type if plain else f"{node.domain}.{node.op_type}"
            if name in banned or (not plain and f"{node.domain}.*" in banned):
                yield scope.label(node), f"{name} is banned here"


def opset_too_old(subject: Subject) -> Iterator[tuple[str, str]]:
    """The opset is below `min-opset`.

    Raise it with `onnx.version_converter.convert_version`, or export again.
    """
    bound = subject.budgets.min_opset
    if bound is not None and subject.opset < bound:
        yield "opset_import", f"opset {subject.opset} is below {bound}"


def missing_metadata(subject: Subject) -> Iterator[tuple[str, str]]:
    """Metadata that `required-metadata` asks for are missing or empty.

    Set them as `metadata_props` of the model: `onnx.helper.set_model_props(model, {...})`.
    """
    given = {p.key: p.value for p in subject.proto.metadata_props}
    for key in subject.budgets.required_metadata:
        if not given.get(key):
            yield key, f"metadata {key!r} are {'empty' if key in given else 'missing'}"


def _above(where: str, what: str, found: int, bound: int | None) -> Iterator[tuple[str, str]]:
    if bound is not None and found > bound:
        yield where, f"{found:,} {what}; at most {bound:,} are allowed ({found / bound:.2f} times)"


def _ratio(subject: Subject, baseline: Path) -> float | str:
    """Return latency over that of the baseline, or why there is none."""
    from onnxopt import latency
    from onnxopt.model import Model
    from onnxopt.runtime import CannotRun, Session, Settings
    from onnxopt.trial import drawn

    settings = Settings(True)
    try:
        old = Model.load(baseline).export()
        new = subject.exported
    except ModelError as e:
        return f"nothing can be timed: {e}"
    trouble = "no input can be drawn"
    try:
        for feed in drawn(old, settings, seed=0, n=4).feeds():
            try:
                for model in (old, new):
                    Session(model, settings).run(feed)
            except CannotRun as e:
                trouble = str(e)
                continue
            found = latency.measure(old, new, feed, settings, TIMED)
            if found is not None:
                return found.ratio
    except SamplesError as e:
        trouble = str(e)
    return f"nothing can be timed: {trouble}"


RULES = (
    Rule("OPT501", Level.ERROR, too_many_bytes),
    Rule("OPT502", Level.ERROR, too_many_params),
    Rule("OPT503", Level.ERROR, too_many_macs),
    Rule("OPT504", Level.ERROR, too_slow),
    Rule("OPT505", Level.ERROR, banned_op),
    Rule("OPT506", Level.ERROR, opset_too_old),
    Rule("OPT507", Level.ERROR, missing_metadata),
)

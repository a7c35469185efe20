"""OPT1xx: will it run elsewhere, on another machine or in another runtime?"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule
from onnxopt.check.subject import STANDARD, Subject, attribute, is_op
from onnxopt.model.files import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

CONTRIB = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains that onnxruntime alone has."""

KNOWN = (
    *STANDARD, *CONTRIB, "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training",
)  # fmt: skip
"""Domains that stock onnxruntime has."""

LAYOUT_BOUND = ("com.microsoft.nchwc", "com.ms.internal.nhwc")

PERSONAL = re.compile(
    r"(?:^|[\s\"'(=])((?:/(?:home|Users|root|mnt|data)/|[A-Za-z]:\\)[^\s\"',;)]+)"
)
"""An absolute path of somebody's machine in a text."""


def contrib_op(subject: Subject) -> Iterator[tuple[str, str]]:
    """An operator that only onnxruntime has.

    The model will not run in TensorRT, OpenVINO, CoreML and others. Where that matters, optimize
    the original file with `onnxopt run --target portable`. Operators of `com.microsoft.nchwc` come
    from a file that onnxruntime saved after optimizing: it is bound to one kind of processor.
    """
    for domain, ops in _domains(subject).items():
        if domain in CONTRIB:
            bound = "; they are bound to this processor" if domain in LAYOUT_BOUND else ""
            yield domain, f"only onnxruntime has {_listed(ops)} of {domain}{bound}"


def custom_op(subject: Subject) -> Iterator[tuple[str, str]]:
    """An operator of a domain that stock onnxruntime does not have.

    It runs only where its library is registered. Define it as a model-local function, or give its
    users the library and add the domain's code to `ignore`.
    """
    functions = {(f.domain, f.name) for f in subject.proto.functions}
    for domain, ops in _domains(subject).items():
        foreign = Counter({op: n for op, n in ops.items() if (domain, op) not in functions})
        if domain not in KNOWN and foreign:
            yield domain, f"no stock runtime has {_listed(foreign)} of domain {domain!r}"


def opset_bound(subject: Subject) -> Iterator[tuple[str, str]]:
    """The opset is above `max-opset`.

    Runtimes on devices lag behind: they refuse newer files whole. Export at the bound.
    """
    bound = subject.budgets.max_opset
    if bound is not None and subject.opset > bound:
        yield "opset_import", f"opset {subject.opset} is above the bound of {bound}"


def external_data(subject: Subject) -> Iterator[tuple[str, str]]:
    """Weights are kept beside the model although one file could hold them.

    A model of several files is easily copied without its weights. `onnx.save` without
    `save_as_external_data` writes one file; only above 2 GB are two needed.
    """
    count = sum(1 for t in subject.proto.graph.initializer if t.external_data)
    if count and subject.nbytes < LIMIT:
        yield "", f"{count} initializers are in external files; below 2 GB one file can hold them"


def absolute_path(subject: Subject) -> Iterator[tuple[str, str]]:
    """A path of somebody's machine is written into the model.

    Exporters leave stack traces in metadata and doc strings. They make files differ from build to
    build and tell where they were built. `clean` drops those of torch.onnx; clear others yourself,
    in `doc_string` and `metadata_props`.
    """
    found: dict[str, int] = {}
    for text in _texts(subject):
        match = PERSONAL.search(text)
        if match is not None:
            found[match[1]] = found.get(match[1], 0) + 1
    if found:
        first, times = next(iter(found)), sum(found.values())
        yield "metadata", f"{times} texts in it hold paths of a machine, such as {first}"


def training_mode(subject: Subject) -> Iterator[tuple[str, str]]:
    """A Dropout or BatchNormalization is in training mode.

    Outputs then depend on chance or on the batch. Export in inference mode: `model.eval()`, or
    `training=TrainingMode.EVAL` of torch.onnx.
    """
    for scope in subject.scopes:
        for node in scope.nodes:
            if is_op(node, "BatchNormalization") and attribute(node, "training_mode", 0) == 1:
                yield scope.label(node), "this BatchNormalization is in training mode"
            elif is_op(node, "Dropout") and len(node.input) > 2 and node.input[2]:
                held = subject.constant(scope, node.input[2])
                values = None if held is None else subject.values(held)
                if values is not None and values.any():
                    yield scope.label(node), "this Dropout is in training mode"


def _domains(subject: Subject) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for scope in subject.scopes:
        for node in scope.nodes:
            if node.domain not in STANDARD:
                found.setdefault(node.domain, Counter())[node.op_type] += 1
    return found


def _listed(ops: Counter[str]) -> str:
    return ", ".join(f"{op} ({n})" for op, n in ops.most_common())


def _texts(subject: Subject) -> Iterator[str]:
    yield subject.proto.doc_string
    yield subject.proto.graph.doc_string
    yield from (p.value for p in subject.proto.metadata_props)
    for scope in subject.scopes:
        node: onnx.NodeProto
        for node in scope.nodes:
            yield node.doc_string
            yield from (p.value for p in node.metadata_props)


RULES = (
    Rule("OPT101", Level.NOTE, contrib_op),
    Rule("OPT102", Level.WARNING, custom_op),
    Rule("OPT103", Level.ERROR, opset_bound),
    Rule("OPT104", Level.NOTE, external_data),
    Rule("OPT105", Level.NOTE, absolute_path),
    Rule("OPT106", Level.WARNING, training_mode),
)

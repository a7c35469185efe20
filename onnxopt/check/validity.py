"""OPT0xx: is it a model at all, and does it run?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import onnx

from onnxopt import structure
from onnxopt.check import flow
from onnxopt.check.finding import Level, Rule
from onnxopt.check.subject import STANDARD, Scope
from onnxopt.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.check.subject import Subject

SILENT = "onnx objects to the model and does not say to what"
"""Old versions of onnx raise errors without a message."""

LISTED = 5
"""Nodes named in one message."""


def unreadable(subject: Subject) -> Iterator[tuple[str, str]]:
    """The file cannot be read as an ONNX model.

    It is empty, cut short, a Git LFS pointer, or something else. Fetch or export it again; of Git
    LFS files, run `git lfs pull`. Nothing else is checked in such a file.
    """
    yield from ()  # reading has failed before a rule can look: the driver reports it


def checker(subject: Subject) -> Iterator[tuple[str, str]]:
    """onnx.checker objects to the model.

    The message is the checker's own. Common causes: an operator that this opset does not have, a
    missing or unknown attribute, a wrong number of inputs. Export it again, or raise the opset with
    `onnx.version_converter`.
    """
    if broken(subject) or newer(subject):
        return
    found = _complaint(subject)
    if found is not None:
        yield "", found or SILENT


def shape_conflict(subject: Subject) -> Iterator[tuple[str, str]]:
    """Types or shapes in the file contradict what its nodes compute.

    Often a stale `value_info`, or an output declared with a wrong shape. Delete `value_info` and
    run `onnx.shape_inference.infer_shapes` to see what the nodes give, then correct the
    declaration.
    """
    if broken(subject) or newer(subject) or _complaint(subject) is not None:
        return
    found = structure.complaint(subject.stripped)
    if found is not None:
        yield "", found or SILENT


def runtime_refuses(subject: Subject) -> Iterator[tuple[str, str]]:
    """The model is valid, but onnxruntime cannot load it.

    The message is onnxruntime's own. A valid model may use operators or types for which it has no
    CPU kernel. Runs with --runtime (or `runtime = true`), as it takes longer.
    """
    if broken(subject) or any(n for _, n in _foreign(subject)):
        return
    from onnxopt.runtime import CannotRun, Session, Settings

    try:
        Session(subject.exported, Settings(lean=True))
    except CannotRun as e:
        yield "", f"onnxruntime cannot load it: {e}"
    except ModelError:
        return  # OPT010 says which data are missing


def opset_unknown(subject: Subject) -> Iterator[tuple[str, str]]:
    """The file names no version of the standard operators, or one that onnx does not know yet.

    Without an opset no operator has a meaning: set `opset_import`. With a newer one than the
    installed onnx knows, nothing can be checked: upgrade onnx, or export at an older opset.
    """
    uses = any(n.domain in STANDARD for s in subject.scopes for n in s.nodes)
    if not subject.opset:
        if uses:
            yield "opset_import", "no opset of the standard operators is given; set opset_import"
    elif newer(subject):
        newest = onnx.defs.onnx_opset_version()
        yield (
            "opset_import",
            f"opset {subject.opset} is newer than the installed onnx knows ({newest}), so operators"
            " are not checked; upgrade onnx or export at an older opset",
        )


def dangling(subject: Subject) -> Iterator[tuple[str, str]]:
    """A node reads, or the graph returns, a tensor that nothing produces.

    A node or an initializer was removed or renamed, but not what refers to it. Rename the input to
    a tensor that exists, or put the missing producer back.
    """
    for scope in subject.scopes:
        for node in scope.nodes:
            for index, name in enumerate(node.input):
                if name and not scope.knows(name):
                    yield (
                        scope.label(node),
                        f"input {index} of this {node.op_type} is {name!r}, which nothing produces"
                        f"{_near(name, scope)}",
                    )
        for name in scope.outputs:
            if not scope.knows(name):
                where = scope.path or "the graph"
                yield name, f"{where} returns {name!r}, which nothing produces{_near(name, scope)}"


def cycle(subject: Subject) -> Iterator[tuple[str, str]]:
    """Nodes, or functions, depend on each other in a circle.

    Nothing can run them. Look at the nodes that are named: one of them reads a tensor that is made
    after it, mostly because two tensors share a name.
    """
    for scope in subject.scopes:
        stuck = flow.unsorted(scope)[1]
        if stuck:
            names = [scope.label(n) for n in stuck]
            yield names[0], f"nodes depend on each other in a circle: {_some(names)}"
    calls = flow.calls(subject)
    for name in flow.circular(calls):
        yield name, f"function {name} calls itself, by way of {_some(sorted(calls[name]))}"


def order(subject: Subject) -> Iterator[tuple[str, str]]:
    """Nodes come before those that they depend on.

    ONNX asks for topological order, and most runtimes rely on it. `--fix` sorts them.
    """
    for scope in subject.scopes:
        early, stuck = flow.unsorted(scope)
        if early and not stuck:
            names = [scope.label(n) for n in early]
            yield names[0], f"nodes come before those that they depend on: {_some(names)}"


def repeated_name(subject: Subject) -> Iterator[tuple[str, str]]:
    """Two things in one graph make a tensor of the same name.

    What its readers get is undefined. Give one of the two another name.
    """
    for scope in subject.scopes:
        made: dict[str, str] = dict.fromkeys(scope.inputs, "an input")
        if scope.outer is not None or subject.proto.ir_version >= 4:
            made.update((n, "an initializer") for n in scope.held if n not in made)
        for node in scope.nodes:
            for name in filter(None, node.output):
                if name in made:
                    other = made[name]
                    yield scope.label(node), f"{name!r} is made here and is {other} too; rename one"
                made[name] = f"an output of {scope.label(node)}"


def missing_data(subject: Subject) -> Iterator[tuple[str, str]]:
    """External data are missing or too short, or an initializer is damaged.

    The weights are in another file, which has to lie beside the model. Copy or fetch it again, or
    save the model with its weights in one file.
    """
    for tensor in subject.proto.graph.initializer:
        if not tensor.external_data:
            continue
        try:
            subject.external(tensor)
        except ModelError as e:
            if "outside the model's folder" not in str(e):
                yield tensor.name, str(e)


def _near(name: str, scope: Scope) -> str:
    from difflib import get_close_matches

    known = [*scope.makers, *scope.held, *scope.inputs]
    found = get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {found[0]!r}?" if found else ""


def _some(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def newer(subject: Subject) -> bool:
    """Whether a model's opset is newer than the installed onnx knows."""
    return bool(subject.opset > onnx.defs.onnx_opset_version())


@lru_cache(maxsize=1)
def broken(subject: Subject) -> bool:
    """Whether rules here have more to say than onnx's own code, which may not survive it."""
    return any(
        next(rule(subject), None) is not None
        for rule in (cycle, dangling, order, repeated_name, missing_data)
    ) or (not subject.opset)


@lru_cache(maxsize=1)
def _complaint(subject: Subject) -> str | None:
    """Return what onnx.checker objects to, types and shapes aside."""
    return structure.complaint(subject.stripped, full=False)


def _foreign(subject: Subject) -> Iterator[tuple[Scope, onnx.NodeProto]]:
    """Yield nodes of domains that stock onnxruntime has not."""
    from onnxopt.check.portability import KNOWN

    functions = {(f.domain, f.name) for f in subject.proto.functions}
    for scope in subject.scopes:
        for node in scope.nodes:
            if node.domain not in KNOWN and (node.domain, node.op_type) not in functions:
                yield scope, node


RULES = (
    Rule("OPT001", Level.ERROR, unreadable),
    Rule("OPT002", Level.ERROR, checker),
    Rule("OPT003", Level.ERROR, shape_conflict),
    Rule("OPT004", Level.ERROR, runtime_refuses, runtime=True),
    Rule("OPT005", Level.ERROR, opset_unknown),
    Rule("OPT006", Level.ERROR, dangling),
    Rule("OPT007", Level.ERROR, cycle),
    Rule("OPT008", Level.ERROR, order, fixable=True),
    Rule("OPT009", Level.ERROR, repeated_name),
    Rule("OPT010", Level.ERROR, missing_data),
)

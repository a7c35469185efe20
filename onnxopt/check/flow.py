"""What depends on what: the order of nodes, circles among them and among functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.check.subject import bodies

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from onnxopt.check.subject import Scope, Subject


def unsorted(scope: Scope) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes that come too early, and those that no order can serve."""
    position = {name: i for i, n in enumerate(scope.nodes) for name in n.output if name}
    needs = [{position[name] for name in _reads(node) if name in position} for node in scope.nodes]
    early = [n for i, n in enumerate(scope.nodes) if any(j >= i for j in needs[i])]
    if not early:
        return [], []
    waiting = {i: set(found) for i, found in enumerate(needs)}
    users: dict[int, list[int]] = {}
    for i, found in enumerate(needs):
        for j in found:
            users.setdefault(j, []).append(i)
    ready = [i for i, found in waiting.items() if not found]
    while ready:
        done = ready.pop()
        del waiting[done]
        for i in users.get(done, ()):
            waiting[i].discard(done)
            if not waiting[i]:
                ready.append(i)
    return early, [scope.nodes[i] for i in _on_cycles(waiting)]


def _on_cycles(waiting: Mapping[int, set[int]]) -> list[int]:
    """Drop what only depends on a circle without being in one, or between two."""
    uses = dict.fromkeys(waiting, 0)
    for needed in waiting.values():
        for j in needed:
            uses[j] += 1
    loose = [i for i, count in uses.items() if not count]
    while loose:
        done = loose.pop()
        del uses[done]
        for j in waiting[done]:
            uses[j] -= 1
            if not uses[j]:
                loose.append(j)
    return sorted(uses)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return all names that a node reads from the graph that it is in, by its bodies too."""
    found = {name for name in node.input if name}
    for _, body in bodies(node):
        inner = {v.name for v in body.output}.union(*map(_reads, body.node))
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own.update(t.values.name for t in body.sparse_initializer)
        own.update(name for n in body.node for name in n.output)
        found |= inner - own
    return found


def calls(subject: Subject) -> dict[str, set[str]]:
    """Return which model-local functions call which."""
    names = {f"{f.domain}::{f.name}" for f in subject.proto.functions}
    calls: dict[str, set[str]] = {name: set() for name in names}
    for scope in subject.scopes:
        caller = next((n for n in names if scope.path.startswith(f"{n}/")), None)
        if caller is not None:
            called = {f"{n.domain}::{n.op_type}" for n in scope.nodes}
            calls[caller] |= called & names
    return calls


def circular(calls: dict[str, set[str]]) -> list[str]:
    """Return the functions that call themselves, directly or by way of others."""
    found = []
    for name in sorted(calls):
        reached: set[str] = set()
        stack = list(calls[name])
        while stack:
            other = stack.pop()
            if other not in reached:
                reached.add(other)
                stack.extend(calls[other])
        if name in reached:
            found.append(name)
    return found

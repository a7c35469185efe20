"""What nothing reads -> nothing.

* A node none of whose outputs is read or returned, random ones too; a foreign op without any
  output stays, since it can only be there for what it does.
* An optional output that nothing reads, where its presence has no meaning (`OPTIONAL`): kernels
  then need not compute it. Not BatchNormalization: before opset 14 its outputs say whether it
  trains.
* An output of If, a scan output of Loop or Scan that nothing reads, and with it the body's.
  Carried values stay: the next iteration reads them.
* An initializer that nothing reads, unless a quantization annotation names it or (before IR
  version 4) it holds a place among the inputs.
* A function that nothing calls.

Inputs and outputs of the main graph are never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.layout import reads
from onnxopt.rewrite import edit_id
from onnxopt_passes.clean import links

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

OPTIONAL = {
    "Dropout": 1,
    "GRU": 0,
    "LSTM": 0,
    "LayerNormalization": 1,
    "MaxPool": 1,
    "RNN": 0,
    "Unique": 1,
}
"""Ops with optional outputs that may be left out, and the first of these."""

OMITTABLE = {"GRU": 7, "LSTM": 7, "RNN": 7, "Dropout": 7}
"""The opset from which on leaving them out is the same op."""

SCAN = 9
"""From this opset on, Scan has no batch axis and no sequence lengths."""


def dead(model: Model, ctx: Context) -> int:
    """Drop nodes, outputs, initializers and functions that nothing uses."""
    made = _outputs(model, ctx)
    if made:
        links.restamp(model)
    made += _nodes(model, ctx)
    made += _functions(model, ctx)
    return made + _initializers(model, ctx)


def _read(tensor: gs.Tensor) -> bool:
    return bool(tensor.outputs) or match.fetched(tensor)


def _live(node: gs.Node) -> bool:
    if node.domain not in match.STANDARD and not any(t.name for t in node.outputs):
        return True
    return any(_read(t) for t in node.outputs)


def _nodes(model: Model, ctx: Context) -> int:
    paths = {id(graph): path for path, graph in model.graphs()}
    stack = [n for _, graph in model.graphs() for n in graph.nodes if not _live(n)]
    stack.reverse()
    graphs: dict[int, gs.Graph] = {}
    made = 0
    while stack:
        node = stack.pop()
        owner = node.owner  # type: ignore[attr-defined]
        if getattr(node, "removed", False) or id(owner) not in paths or _live(node):
            continue
        if not ctx.allow(edit_id("dead", paths[id(owner)], node)):
            continue
        above = {id(p): p for t in reads(node) for p in t.inputs}
        links.detach(node)
        graphs[id(owner)] = owner
        made += 1
        stack.extend(p for p in above.values() if not _live(p))
    for graph in graphs.values():
        links.purge(graph)
    return made


def _outputs(model: Model, ctx: Context) -> int:
    made = 0
    for path, graph in list(model.graphs()):
        for node in graph.nodes:
            droppable = _droppable(node, graph.opset) if node.domain in match.STANDARD else ()
            unread = [i for i in droppable if not _read(node.outputs[i])]
            if not unread or not _live(node) or not ctx.allow(edit_id("output", path, node)):
                continue
            if node.op in OPTIONAL:
                _omit(node, unread)
            else:
                _narrow(node, unread)
            made += 1
    return made


def _droppable(node: gs.Node, opset: int) -> Iterable[int]:
    """Return which outputs of a node may be left out if nothing reads them."""
    if node.op in OPTIONAL:
        if opset < OMITTABLE.get(node.op, 1):
            return ()
        return [i for i in range(OPTIONAL[node.op], len(node.outputs)) if node.outputs[i].name]
    inner = [body for _, body in ir.bodies(node)] if node.attrs else []
    n = len(node.outputs)
    if node.op == "If" and inner and all(len(b.outputs) == n for b in inner):
        return range(n)
    carried = len(node.inputs) - 2
    if node.op == "Loop" and len(inner) == 1 and len(inner[0].outputs) == n + 1:
        return range(carried, n)
    fed = node.attrs.get("num_scan_inputs")
    if node.op == "Scan" and opset >= SCAN and len(inner) == 1 and len(inner[0].outputs) == n:
        return range(len(node.inputs) - fed, n) if isinstance(fed, int) else ()
    return ()


def _omit(node: gs.Node, unread: list[int]) -> None:
    """Leave optional outputs out; trailing ones go."""
    outputs = [ir.Variable("") if i in unread else t for i, t in enumerate(node.outputs)]
    while not outputs[-1].name:
        outputs.pop()
    node.outputs = outputs


def _narrow(node: gs.Node, unread: list[int]) -> None:
    """Drop outputs of a node with bodies, and what the bodies return for them."""
    shift = 1 if node.op == "Loop" else 0
    for name in ("scan_output_axes", "scan_output_directions"):
        per_output = node.attrs.get(name)
        if node.op == "Scan" and isinstance(per_output, list):
            first = len(node.outputs) - len(per_output)
            left = [v for i, v in enumerate(per_output) if i + first not in unread]
            node.attrs.pop(name)
            if left:
                node.attrs[name] = left
    for _, body in ir.bodies(node):
        body.outputs = [t for i, t in enumerate(body.outputs) if i - shift not in unread]
    node.outputs = [t for i, t in enumerate(node.outputs) if i not in unread]


def _initializers(model: Model, ctx: Context) -> int:
    made = 0
    for path, graph in model.graphs():
        declared = ir.carried(graph, "initializers", [])
        if all(c.outputs for c in declared):
            continue
        pinned = links.pinned(graph)
        gone = {
            id(c)
            for c in declared
            if not _read(c) and id(c) not in pinned and ctx.allow(f"unused@{path}{c.name}")
        }
        declared[:] = [c for c in declared if id(c) not in gone]
        made += len(gone)
    return made


def _functions(model: Model, ctx: Context) -> int:
    functions = model.graph.functions
    if not functions:
        return 0
    by_key: dict[tuple[str, str], list[gs.Function]] = {}
    for function in functions:
        by_key.setdefault(_key(function.domain, function.name), []).append(function)
    called: set[int] = set()
    stack: list[gs.Graph] = [model.graph]
    while stack:
        for _, graph in ir.nested(stack.pop()):
            for node in graph.nodes:
                for function in by_key.pop(_key(node.domain, node.op), ()):
                    called.add(id(function))
                    stack.append(function)
    gone = {
        id(f)
        for f in functions
        if id(f) not in called and ctx.allow(f"function@{f.domain}::{f.name}")
    }
    if gone:
        model.graph.functions = [f for f in functions if id(f) not in gone]
    return len(gone)


def _key(domain: str | None, name: str) -> tuple[str, str]:
    return ("" if domain in match.STANDARD else str(domain), name)

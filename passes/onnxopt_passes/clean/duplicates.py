"""Equal nodes -> one node;  equal initializers -> one initializer.

Nodes are equal if op, attributes (tensors by their bytes), the tensors they read and the outputs
they have are the same, and they are in one graph. Only ops of the standard domains that always
give the same result: not random ones, not those with bodies, not other domains, whose ops may keep
a state. Of two nodes the one whose output a graph returns stays; if that are both, both stay.

Initializers are equal if type, shape and bytes are; one may be a body's and the other of a graph
around it or beside it. Where constants are written as nodes (functions, and before IR version 4),
a Constant node gives way to an equal constant, as it would after the next load.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxopt import match
from onnxopt.model import ir
from onnxopt.model.layout import in_order
from onnxopt.model.tensors import BITS, Packed, Sparse, Stored, store
from onnxopt.rewrite import edit_id
from onnxopt_passes.clean import links
from onnxopt_passes.clean.constants import INITIALIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from onnxopt.base import Context
    from onnxopt.model import Model

DETERMINISTIC = frozenset({None, "", "ai.onnx", "ai.onnx.ml"})
"""Domains whose ops are known to depend on their inputs alone, but for `RANDOM`."""

RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Dropout", "Multinomial"),
    }
)
"""Ops that may give another result every time."""

SAMPLE = 4096
"""Bytes at either end that are compared before everything is hashed."""


def merge_nodes(model: Model, ctx: Context) -> int:
    """Keep one of equal nodes."""
    own = links.overridden(model)
    return sum(_merge(graph, path, own, ctx) for path, graph in list(model.graphs()))


def _merge(graph: gs.Graph, path: str, own: frozenset[str], ctx: Context) -> int:
    keys = [k for n in graph.nodes if (k := signature(n)) is not None]
    if len(set(keys)) == len(keys):  # then no merger can make others equal
        return 0
    first: dict[Hashable, gs.Node] = {}
    held: list[gs.Tensor] = []  # keys hold ids, which must not come back
    made = 0
    for node in in_order(graph):
        key = None if node.op in own else signature(node)
        if key is None:
            continue
        keeper = first.setdefault(key, node)
        if keeper is node:
            continue
        if any(match.fetched(t) for t in node.outputs):
            keeper, node = node, keeper
        if any(match.fetched(t) for t in node.outputs):
            continue
        if not ctx.allow(edit_id("cse", path, node)):
            continue
        first[key] = keeper
        held.extend(node.outputs)
        for old, new in zip(node.outputs, keeper.outputs, strict=True):
            links.redirect(old, new)
        match.remove(node)
        made += 1
    if made:
        links.purge(graph)
    return made


def signature(node: gs.Node) -> Hashable | None:
    """Return what two nodes have in common if and only if they give equal results."""
    if node.domain not in DETERMINISTIC or node.op in RANDOM or not node.outputs:
        return None
    attributes = []
    for name in sorted(node.attrs):
        value = _attribute(node.attrs[name])
        if value is None:
            return None
        attributes.append((name, value))
    domain = "" if node.domain in match.STANDARD else node.domain
    reads = tuple(id(t) if t.name else 0 for t in node.inputs)
    made = tuple(bool(t.name) for t in node.outputs)
    return (node.op, domain, reads, made, tuple(attributes))


def _attribute(value: Any) -> Hashable | None:
    if isinstance(value, gs.Constant):
        kind, raw = _kind(value), _raw(value)
        return None if raw is None else (kind, blake2b(raw.data).digest())
    if isinstance(value, AttributeProto):
        return bytes(value.SerializeToString(deterministic=True))
    if isinstance(value, gs.Graph) or (isinstance(value, list) and isinstance(value[0], gs.Graph)):
        return None
    return (type(value).__name__, repr(value))  # repr tells 0.0 from -0.0, and 1 from 1.0


def merge_constants(model: Model, ctx: Context) -> int:
    """Keep one of equal initializers."""
    made = 0
    for path, root in links.roots(model):
        frozen = {i for _, graph in ir.nested(root, path) for i in links.pinned(graph)}
        met = {id(c): (where, c) for where, c in links.constants(root, path)}
        groups = _equal([c for _, c in met.values()])
        gone: set[int] = set()
        for keeper, *others in groups:
            for constant in others:
                where = met[id(constant)][0]
                if id(constant) in frozen or not constant.outputs:
                    continue
                if ctx.allow(f"dedupe@{where}{constant.name}"):
                    links.redirect(constant, keeper)
                    gone.add(id(constant))
        if gone:
            for _, graph in ir.nested(root, path):
                declared = ir.carried(graph, "initializers", [])
                declared[:] = [c for c in declared if id(c) not in gone]
        made += len(gone)
        if isinstance(root, gs.Function) or model.header.ir_version < INITIALIZERS:
            made += _merge_constant_nodes(root, path, ctx)
    return made


def _merge_constant_nodes(root: gs.Graph, path: str, ctx: Context) -> int:
    known = {_whole(c): c for _, c in links.constants(root, path) if c.outputs}
    slots = {id(c) for _, _, c in ir.carried(root, "slots", ())}
    known = {key: c for key, c in known.items() if key is not None and id(c) not in slots}
    made = 0
    for where, graph in ir.nested(root, path) if known else ():
        for node in graph.nodes:
            value = node.attrs.get("value") if match.is_op(node, "Constant") else None
            if not isinstance(value, gs.Constant) or match.fetched(node.outputs[0]):
                continue
            twin = known.get(_whole(value))
            if twin is not None and ctx.allow(edit_id("dedupe", where, node)):
                links.redirect(node.outputs[0], twin)
                match.remove(node)
                made += 1
        links.purge(graph)
    return made


def _equal(constants: Iterable[gs.Constant]) -> list[list[gs.Constant]]:
    """Return groups of equal constants; only bytes that could be equal are read whole."""
    groups = _split([list(constants)], _kind)
    groups = _split(groups, _ends)
    groups = _split(groups, _whole)
    return [[g[0], *(c for c in g[1:] if _same(c, g[0]))] for g in groups]


def _split(
    groups: Iterable[list[gs.Constant]], key: Callable[[gs.Constant], Hashable | None]
) -> list[list[gs.Constant]]:
    result = []
    for group in groups:
        parts: dict[Hashable, list[gs.Constant]] = {}
        for constant in group:
            parts.setdefault(key(constant), []).append(constant)
        result += [part for k, part in parts.items() if k is not None and len(part) > 1]
    return result


def _kind(constant: gs.Constant) -> Hashable | None:
    """Return type and shape; None for what is never compared: strings, sparse and unknown types."""
    values = constant._values
    if isinstance(values, Sparse) or values.dtype is None or values.dtype == object:
        return None
    if isinstance(values, Packed) and values.tensor.data_type not in BITS:
        return None
    return (str(values.dtype), tuple(values.shape))


def _raw(constant: gs.Constant) -> np.ndarray | None:
    """Return the bytes as they go to a file; stored ones are not copied."""
    if _kind(constant) is None:
        return None
    values = constant._values
    if isinstance(values, Stored):
        return values.raw
    array = values.load() if isinstance(values, LazyValues) else values
    if int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) not in BITS:
        return None
    return store(array, constant.name).raw


def _ends(constant: gs.Constant) -> Hashable | None:
    raw = _raw(constant)
    return None if raw is None else raw[:SAMPLE].tobytes() + raw[-SAMPLE:].tobytes()


def _whole(constant: gs.Constant) -> Hashable | None:
    raw = _raw(constant)
    return None if raw is None else (_kind(constant), blake2b(raw.data).digest())


def _same(a: gs.Constant, b: gs.Constant) -> bool:
    x, y = _raw(a), _raw(b)
    return x is not None and y is not None and np.array_equal(x, y)

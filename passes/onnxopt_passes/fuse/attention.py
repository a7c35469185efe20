"""Attention from scaled dot products.

Softmax(s * Q Kt + M) V        ->  Attention(Q, K, V, M, scale = s)

Q, K and V are [batch, heads, length, size]; Kt is a Transpose of K. s may be on the scores, on Q,
on Kt, or in parts on several of them. M is added, or `Where(c, scores, number)`, which is the same
as adding Where(c, 0, number) if the number is below all scores. K and V may have fewer heads than
Q: one, or ones that Unsqueeze, Expand and Reshape repeat, which Attention does by itself. Between
Softmax and the product, `Where(IsNaN(p), 0, p)` may stand: rows that are hidden as a whole are 0 in
onnxruntime's Attention too.

From opset 23 on, which has Attention (https://onnx.ai/onnx/operators/onnx__Attention.html), and
for float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import attention_mask, scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ATTENTION = 23
"""The opset that has it."""


@dataclass(frozen=True)
class Scores:
    """Q Kt, scaled.

    Attributes:
        q: [batch, heads, queries, size].
        k: What `perm` makes K of: K is [batch, heads, keys, size].
        perm: A permutation, None where k is K.
        scale: Factor on the product.
    """

    q: gs.Tensor
    k: gs.Tensor
    perm: list[int] | None
    scale: float


@dataclass(frozen=True)
class Found:
    """Scaled dot products that an Attention may compute.

    Attributes:
        context: The node that makes the output: a product with V.
        scores: What goes into the Softmax, but for the mask.
        v: [batch, heads, keys, size].
        mask: None where there is none.
        short: What `attention_mask.fit` says of it.
        zeroed: Whether probabilities that are NaN become 0.
    """

    context: gs.Node
    scores: Scores
    v: gs.Tensor
    mask: attention_mask.Mask | None
    short: tuple[bool, bool]
    zeroed: bool


def fuse_attention(graph: gs.Graph, softmax: gs.Node) -> bool:
    """Write scaled dot products as one Attention."""
    found = find(graph, softmax) if graph.opset >= ATTENTION else None
    if found is None:
        return False
    context, scores, v = found.context, found.scores, found.v
    name = context.outputs[0].name
    inputs = [scores.q, *_keys_values(graph, scores, v, name)]
    if found.mask is not None:
        sources, raised = (scores.q, v), not found.zeroed or attention_mask.finite(found.mask)
        mask = attention_mask.write(graph, found.mask, sources, name, found.short, raised)
        inputs.append(mask)
    new = ir.Node("Attention", context.name, {"scale": scores.scale}, inputs)
    return scalars.finish(graph, context, new)


def find(graph: gs.Graph, softmax: gs.Node) -> Found | None:
    """Return the scaled dot products around a Softmax of opset 13 or later."""
    context = _context(graph, softmax.outputs[0])
    if context is None or match.attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    masked = _masked(graph, softmax.inputs[0])
    if masked is None:
        return None
    scores, mask = masked
    v = context.inputs[1]
    short = (False, False) if mask is None else attention_mask.fit(mask, scores.q, v)
    quantized = match.quantized(v, context.outputs[0]) or match.quantized(scores.q, scores.q)
    if scalars.kind(v, context.outputs[0]) != np.float32:
        match.miss("it is not float32")
    elif quantized:
        match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    elif not _fits(scores, v):
        match.miss("batch, heads or lengths of Q, K and V are not known to fit")
    elif short is None:
        match.miss("its mask does not fit [batch, heads, queries, keys]")
    else:
        zeroed = len(softmax.outputs[0].outputs) > 1
        return Found(context, scores, v, mask, short, zeroed)
    return None


def _context(graph: gs.Graph, probabilities: gs.Tensor) -> gs.Node | None:
    """Return the product of probabilities with V, also where NaN among them become 0 first."""
    readers = {n.op: n for n in probabilities.outputs if match.here(graph, n)}
    if len(probabilities.outputs) == 2 and set(readers) == {"IsNaN", "Where"}:
        where = match.sole_reader(graph, readers["IsNaN"].outputs[0], "Where")
        if match.fetched(probabilities) or where is None or where is not readers["Where"]:
            return None
        if where.inputs[2] is not probabilities or match.scalar(where.inputs[1]) != 0:
            return None
        if len(shapes.dims(where.inputs[1]) or ()) > 4:
            return None
        probabilities = where.outputs[0]
    context = match.sole_reader(graph, probabilities, "MatMul")
    return context if context is not None and context.inputs[0] is probabilities else None


def _masked(graph: gs.Graph, tensor: gs.Tensor) -> tuple[Scores, attention_mask.Mask | None] | None:
    """Return the scores that go into a Softmax, and what masks them."""
    plain = _scores(graph, tensor)
    if plain is not None:
        return plain, None
    for product, mask in attention_mask.candidates(graph, tensor):
        scores = _scores(graph, product)
        if scores is not None:
            return scores, mask
    return None


def _scores(graph: gs.Graph, tensor: gs.Tensor) -> Scores | None:
    """Return the parts of a scaled product with transposed keys."""
    scale = 1.0
    node = match.sole(graph, tensor, "MatMul", "Mul", "Div")
    while node is not None and not match.is_op(node, "MatMul"):
        scaled = scalars.scaled(node)
        if scaled is None:
            return None
        scale *= scaled[1]
        node = match.sole(graph, scaled[0], "MatMul", "Mul", "Div")
    if node is None:
        return None
    q, by_q = _unscaled(graph, node.inputs[0])
    right, by_right = _unscaled(graph, node.inputs[1])
    transpose = match.producer(right)
    perm = None if transpose is None else match.attribute(transpose, "perm", None)
    if not match.is_op(transpose, "Transpose") or not isinstance(perm, list) or len(perm) != 4:
        if shapes.dims(right) is not None and len(shapes.dims(right) or ()) == 4:
            match.miss("its keys are no Transpose")
        return None
    k, by_k = _unscaled(graph, transpose.inputs[0])  # type: ignore[union-attr]
    order = [*perm[:2], perm[3], perm[2]]
    return Scores(q, k, None if order == [0, 1, 2, 3] else order, scale * by_q * by_right * by_k)


def _unscaled(graph: gs.Graph, tensor: gs.Tensor) -> tuple[gs.Tensor, float]:
    """Return what a tensor is a multiple of, and the factor; the tensor and 1 if it is none."""
    node = match.producer(tensor)
    scaled = scalars.scaled(node) if match.here(graph, node) else None
    if scaled is None or match.constant(scaled[0]) is not None:
        return tensor, 1.0
    return scaled


def _permuted(
    dims: tuple[int | str | None, ...] | None, perm: list[int] | None
) -> tuple[int | str | None, ...] | None:
    return dims if dims is None or perm is None else tuple(dims[i] for i in perm)


def _fits(scores: Scores, v: gs.Tensor) -> bool:
    """Whether Q, K and V have one batch, and heads and lengths that belong together."""
    q_dims, v_dims = shapes.dims(scores.q), shapes.dims(v)
    k_dims = _permuted(shapes.dims(scores.k), scores.perm)
    if q_dims is None or k_dims is None or v_dims is None:
        return False
    if not len(q_dims) == len(k_dims) == len(v_dims) == 4:
        return False
    pairs = [(q_dims[0], k_dims[0]), (q_dims[0], v_dims[0]), (k_dims[2], v_dims[2])]
    if any(a is None or a != b for a, b in pairs):
        return False
    heads = (q_dims[1], k_dims[1], v_dims[1])
    return all(isinstance(h, int) for h in heads) and heads[1] == heads[2] in (1, heads[0])


def _keys_values(
    graph: gs.Graph, scores: Scores, v: gs.Tensor, name: str
) -> tuple[gs.Tensor, gs.Tensor]:
    """Return K and V, before their heads were repeated; K as a new Transpose if it is none yet."""
    if scores.perm is None:
        few = _unrepeated(graph, scores.k), _unrepeated(graph, v)
        return few if few[0] is not scores.k and few[1] is not v else (scores.k, v)
    keys = ir.Variable(f"{name}.keys")
    dims = _permuted(shapes.dims(scores.k), scores.perm)
    shapes.note(keys, shapes.dtype(scores.k), dims)
    match.insert(graph, ir.Node("Transpose", keys.name, {"perm": scores.perm}, [scores.k], [keys]))
    return keys, v


def _unrepeated(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    """Return keys or values before their heads were repeated; the tensor if they were not."""
    joined = match.producer(tensor)
    if not match.is_op(joined, "Reshape"):
        return tensor
    expand = match.producer(joined.inputs[0])  # type: ignore[union-attr]
    if not match.is_op(expand, "Expand"):
        return tensor
    raised = match.producer(expand.inputs[0])  # type: ignore[union-attr]
    if raised is None or not match.is_op(raised, "Unsqueeze", "Reshape"):
        return tensor
    few = raised.inputs[0]
    dims = [shapes.dims(t) for t in (few, raised.outputs[0], expand.outputs[0], tensor)]  # type: ignore[union-attr]
    if not match.here(graph, raised) or any(d is None for d in dims):
        return tensor
    small, thin, wide, whole = (list(d or ()) for d in dims)
    times = wide[2] if len(wide) == 5 else None
    if len(small) != 4 or None in small or not isinstance(times, int):
        return tensor
    one, many = [*small[:2], 1, *small[2:]], [*small[:2], times, *small[2:]]
    heads = small[1]
    if thin != one or wide != many or not isinstance(heads, int):
        return tensor
    return few if whole == [small[0], heads * times, *small[2:]] else tensor


RULES: tuple[Rule, ...] = (Rule("attention", ("Softmax",), fuse_attention),)
"""Before that for its heads."""

"""MultiHeadAttention of onnxruntime from scaled dot products, where opset 23 is not there yet.

Softmax(s * Q Kt + M) V, heads split before and joined after  ->  MultiHeadAttention(q, k, v, M)

q, k and v are [batch, length, heads * size]. M is [batch, heads, queries, keys], where the first
two may be 1. Keys and values have as many heads as queries, and the type is float32. Where NaN
among the probabilities become 0, M may not hide a whole row: this operator gives NaN. It is one of
onnxruntime's own (com.microsoft): for `ort-cpu`, kept where it measures faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import attention, attention_heads, attention_mask, scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

DOMAIN = "com.microsoft"

SHAPE_PARTS = 15
"""From this opset on, Shape has `start` and `end`; Softmax looks at one axis from 13 on."""


def fuse_multi_head(graph: gs.Graph, softmax: gs.Node) -> bool:
    """Write scaled dot products of heads as one MultiHeadAttention."""
    if not SHAPE_PARTS <= graph.opset < attention.ATTENTION:
        return False
    found = attention.find(graph, softmax)
    joined = None if found is None else attention_heads.joined(graph, found.context)
    if found is None or joined is None:
        return False
    scores, v = found.scores, found.v
    heads, size = (shapes.dims(scores.q) or ())[1], (shapes.dims(v) or ())[3]
    if not isinstance(heads, int) or (shapes.dims(v) or ())[1] != heads:
        return match.miss("its keys have fewer heads than its queries")
    split = attention_heads.split
    parts = [split(graph, scores.q), _keys(graph, scores), split(graph, v)]
    if any(p is None for p in parts) or not isinstance(size, int):
        return match.miss("its heads are not split from [batch, length, heads * size]")
    if not attention_heads.joins(joined, scores.q, heads * size):
        return match.miss("its heads are not joined to [batch, length, heads * size]")
    if found.zeroed and not attention_mask.finite(found.mask):
        return match.miss("rows that are hidden as a whole would be NaN")
    if found.mask is not None and len(shapes.dims(found.mask.tensor) or ()) != 4:
        return match.miss("its mask has no axes for batch and heads")

    inputs = [p for p in parts if p is not None]
    name = found.context.outputs[0].name
    if found.mask is not None:
        sources = (scores.q, v)
        mask = attention_mask.write(graph, found.mask, sources, name, found.short, raised=False)
        inputs += [ir.Variable(""), ir.Variable(""), mask]
    attributes = {"num_heads": heads, "scale": scores.scale}
    new = ir.Node("MultiHeadAttention", found.context.name, attributes, inputs, domain=DOMAIN)
    return scalars.finish(graph, joined, new)


def _keys(graph: gs.Graph, scores: attention.Scores) -> gs.Tensor | None:
    """Return [batch, length, heads * size] that the keys are made of."""
    if scores.perm is None:
        return attention_heads.split(graph, scores.k)
    return attention_heads.whole(scores.k) if scores.perm == attention_heads.SWAP else None


ORT_CPU_RULES: tuple[Rule, ...] = (Rule("multi_head", ("Softmax",), fuse_multi_head),)
"""The last, since nothing is known of shapes behind it."""

"""Attention from scaled dot products, and with its heads inside.

Softmax(s * Q Kt + M) V        ->  Attention(Q, K, V, M, scale = s)

Q, K and V are [batch, heads, length, size]; Kt is a Transpose of K. s may be on the scores, on Q,
on Kt, or in parts on several of them. M is added, or `Where(c, scores, number)`, which is the same
as adding Where(c, 0, number) if the number is below all scores. K and V may have fewer heads than
Q: one, or ones that Unsqueeze, Expand and Reshape repeat, which Attention does by itself.

Attention of heads that are split and joined around it
  Reshape [batch, length, heads, size] -> Transpose -> Attention -> Transpose -> Reshape
->  Attention(q_num_heads, kv_num_heads)      on [batch, length, heads * size]

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

SPLIT = [0, 2, 1, 3]
"""Permutation that swaps heads and length."""


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


def fuse_attention(graph: gs.Graph, softmax: gs.Node) -> bool:
    """Write scaled dot products as one Attention."""
    probabilities = softmax.outputs[0]
    context = match.sole_reader(graph, probabilities, "MatMul")
    if graph.opset < ATTENTION or context is None or context.inputs[0] is not probabilities:
        return False
    if match.attribute(softmax, "axis", -1) not in (-1, 3):
        return False
    found = _masked(graph, softmax.inputs[0])
    if found is None:
        return False
    scores, mask = found
    v = context.inputs[1]
    if scalars.kind(v, context.outputs[0]) != np.float32:
        return match.miss("it is not float32")
    if match.quantized(v, context.outputs[0]) or match.is_op(
        match.producer(scores.q), "DequantizeLinear"
    ):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    k_dims = _permuted(shapes.dims(scores.k), scores.perm)
    if not _fits(scores.q, scores.k, v, k_dims):
        return match.miss("batch, heads or lengths of Q, K and V are not known to fit")
    short = (False, False) if mask is None else attention_mask.fit(mask, scores.q, v)
    if short is None:
        return match.miss("its mask does not fit [batch, heads, queries, keys]")

    name = context.outputs[0].name
    inputs = [scores.q, _keys(graph, scores, name), _unrepeated(graph, v)]
    if mask is not None:
        inputs.append(attention_mask.write(graph, mask, (scores.q, v), name, short))
    new = ir.Node("Attention", context.name, {"scale": scores.scale}, inputs)
    return scalars.finish(graph, context, new)


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


def _fits(
    q: gs.Tensor, k: gs.Tensor, v: gs.Tensor, k_dims: tuple[int | str | None, ...] | None
) -> bool:
    """Whether Q, K and V have one batch, and heads and lengths that belong together."""
    q_dims, v_dims = shapes.dims(q), shapes.dims(v)
    if q_dims is None or k_dims is None or v_dims is None:
        return False
    if not len(q_dims) == len(k_dims) == len(v_dims) == 4:
        return False
    pairs = [(q_dims[0], k_dims[0]), (q_dims[0], v_dims[0]), (k_dims[2], v_dims[2])]
    if any(a is None or a != b for a, b in pairs):
        return False
    heads = (q_dims[1], k_dims[1], v_dims[1])
    return all(isinstance(h, int) for h in heads) and heads[1] == heads[2] in (1, heads[0])


def _keys(graph: gs.Graph, scores: Scores, name: str) -> gs.Tensor:
    """Return K, as a new Transpose where it is none yet."""
    if scores.perm is None:
        return _unrepeated(graph, scores.k)
    keys = ir.Variable(f"{name}.keys")
    dims = _permuted(shapes.dims(scores.k), scores.perm)
    keys.inferred = (shapes.dtype(scores.k), dims)  # type: ignore[attr-defined]
    match.insert(graph, ir.Node("Transpose", keys.name, {"perm": scores.perm}, [scores.k], [keys]))
    return keys


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


def take_heads(graph: gs.Graph, node: gs.Node) -> bool:
    """Let an Attention split and join its heads by itself."""
    turned = match.sole_reader(graph, node.outputs[0], "Transpose")
    joined = None if turned is None else match.sole_reader(graph, turned.outputs[0], "Reshape")
    q_dims, v_dims = (shapes.dims(node.inputs[i]) for i in (0, 2))
    if turned is None or joined is None or match.attribute(turned, "perm", None) != SPLIT:
        return False
    if len(node.outputs) > 1 or any(match.given(node, i) for i in (4, 5)) or q_dims is None:
        return False
    heads, size = q_dims[1], (v_dims or (None,))[-1]
    parts = [_split(graph, t) for t in node.inputs[:3]]
    if any(p is None for p in parts) or not isinstance(heads, int) or not isinstance(size, int):
        return match.miss("its heads are not split from [batch, length, heads * size]")
    if not _joins(joined, turned.outputs[0], heads * size):
        return match.miss("its heads are not joined to [batch, length, heads * size]")
    if match.quantized(node.inputs[0], joined.outputs[0]):
        return match.miss("it stands before a QuantizeLinear")

    kv_heads = (shapes.dims(node.inputs[1]) or ())[1]
    attributes = {**node.attrs, "q_num_heads": heads, "kv_num_heads": kv_heads}
    inputs = [*(p for p in parts if p is not None), *node.inputs[3:]]
    return scalars.finish(graph, joined, ir.Node("Attention", node.name, attributes, inputs))


def _split(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return [batch, length, heads * size] that [batch, heads, length, size] is made of."""
    turned = match.producer(tensor)
    if turned is None or not match.is_op(turned, "Transpose") or not match.here(graph, turned):
        return None
    reshape = match.producer(turned.inputs[0])
    if match.attribute(turned, "perm", None) != SPLIT or not match.is_op(reshape, "Reshape"):
        return None
    x, dims = reshape.inputs[0], shapes.dims(tensor)  # type: ignore[union-attr]
    if dims is None or not isinstance(dims[1], int) or not isinstance(dims[3], int):
        return None
    whole = shapes.dims(x)
    if whole is None or len(whole) != 3 or whole[2] != dims[1] * dims[3]:
        return None
    return x if _kept(reshape, x, turned.inputs[0]) else None  # type: ignore[arg-type]


def _joins(reshape: gs.Node, x: gs.Tensor, width: int) -> bool:
    """Whether a Reshape joins the last two of four axes to one of that width."""
    dims = shapes.dims(reshape.outputs[0])
    if dims is None or len(dims) != 3 or (isinstance(dims[2], int) and dims[2] != width):
        return False
    return _kept(reshape, x, reshape.outputs[0]) >= (1 if dims[2] == width else 2)


def _kept(reshape: gs.Node, x: gs.Tensor, result: gs.Tensor) -> int:
    """Return how many of the first two axes a Reshape is known to keep.

    One suffices where it keeps the product of the two.
    """
    asked = shapes.elements(reshape.inputs[1])
    zeros_copy = match.attribute(reshape, "allowzero", 0) == 0
    count = 0
    for i in (0, 1):
        size = shapes.axis(x, i)
        wanted = asked[i] if asked and len(asked) > i else None
        same = size is not None and size != 0 and size in (shapes.axis(result, i), wanted)
        count += same or (wanted == 0 and zeros_copy)
    return count


RULES: tuple[Rule, ...] = (
    Rule("attention", ("Softmax",), fuse_attention),
    Rule("attention_heads", ("Attention",), take_heads),
)
"""In the order in which they are tried."""

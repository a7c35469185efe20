"""Sizes that onnx's shape inference does not find: of Reshape and Expand to computed shapes, Range.

Reshape(x, Concat(Shape(m)[0], Shape(m)[1], -1, 8)), m of [batch, length], is [batch, length, n, 8];
n follows from the sizes of x, where all others cancel. onnx gives up on such a shape, and so on all
that comes after it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from onnxopt import inference, match, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model

ROUNDS = 4
"""How often inference starts anew with what was found."""

GENERATED = "unk__"
"""How the symbols begin that onnx makes up; they mean something else in the next inference."""

Dims: TypeAlias = "tuple[int | str | None, ...]"


def infer(model: Model) -> None:
    """Find types and shapes as `shapes.infer` does, and sizes of computed shapes beside."""
    shapes.infer(model)
    known: dict[int, Dims] = {}
    for _ in range(ROUNDS):
        found = _found(model)
        if found.items() <= known.items():
            return
        known |= found
        inference.infer(model, known)


def _found(model: Model) -> dict[int, Dims]:
    """Return the dimensions of what nodes of the main graph make, where they are better known."""
    memo: dict[int, shapes.Elements] = {}
    found = {}
    for node in model.graph.nodes:
        if not match.is_op(node, *RESOLVE):
            continue
        out = node.outputs[0]
        dims = shapes.dims(out)
        if dims is not None and all(_known(d) for d in dims):
            continue
        asked = [shapes.elements(t, memo=memo) for t in node.inputs]
        better = RESOLVE[node.op](node, asked)
        if better is None or (dims is not None and len(better) != len(dims)):
            continue
        merged = tuple(b if _known(b) else d for b, d in zip(better, dims or better, strict=True))
        if merged != dims:
            found[id(out)] = merged
    return found


def _known(dim: int | str | None) -> bool:
    return isinstance(dim, int) or (isinstance(dim, str) and not dim.startswith(GENERATED))


def _size(element: shapes.Element) -> int | str | None:
    """Return an element of a shape as a dimension."""
    if isinstance(element, int):
        return element if element > 0 else None
    named = isinstance(element.key, str) and _known(element.key)
    return element.key if named else None  # type: ignore[return-value]


def _reshaped(node: gs.Node, inputs: Sequence[shapes.Elements]) -> Dims | None:
    """Return what a Reshape makes of a tensor."""
    whole, asked = shapes.dims(node.inputs[0]), inputs[1]
    if asked is None:
        return None
    found = [_size(e) for e in asked]
    if whole is not None and match.attribute(node, "allowzero", 0) == 0:
        copied = [whole[i] if e == 0 and i < len(whole) else None for i, e in enumerate(asked)]
        found = [f if c is None else c for f, c in zip(found, copied, strict=True)]
    if found.count(None) == 1 and asked[found.index(None)] == -1 and whole is not None:
        found[found.index(None)] = _rest(whole, [d for d in found if d is not None])
    return tuple(found)


def _rest(whole: Sequence[int | str | None], others: Sequence[int | str]) -> int | str | None:
    """Return the size of -1: what a product of sizes is, divided by the others."""
    if not all(_known(d) for d in whole):
        return None
    symbols, taken = (Counter(d for d in dims if isinstance(d, str)) for dims in (whole, others))
    total, part = (math.prod(d for d in dims if isinstance(d, int)) for dims in (whole, others))
    left = list((symbols - taken).elements())
    if taken - symbols or not total or total % part:
        return None
    if not left:
        return total // part
    return left[0] if len(left) == 1 and total == part else None


def _expanded(node: gs.Node, inputs: Sequence[shapes.Elements]) -> Dims | None:
    """Return what an Expand makes of a tensor."""
    dims, asked = shapes.dims(node.inputs[0]), inputs[1]
    if dims is None or asked is None or len(dims) > len(asked):
        return None
    wide = (*(1,) * (len(asked) - len(dims)), *dims)
    sizes = [_size(e) for e in asked]
    return tuple(
        s if d in (1, s) else d if s == 1 else None for d, s in zip(wide, sizes, strict=True)
    )


def _ranged(node: gs.Node, inputs: Sequence[shapes.Elements]) -> Dims | None:
    """Return what a Range from 0 in steps of 1 makes: as many elements as its limit says."""
    if inputs[0] != [0] or inputs[2] != [1] or not inputs[1]:
        return None
    return (_size(inputs[1][0]),)


RESOLVE = {"Reshape": _reshaped, "Expand": _expanded, "Range": _ranged}
"""What finds the dimensions of an output: from the node, and the elements of its inputs."""

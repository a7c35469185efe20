"""Sizes that onnx's shape inference does not find: of computed shapes, and of what is cut by them.

Reshape(x, Concat(Shape(m)[0], Shape(m)[1], -1, 8)), m of [batch, length], is [batch, length, n, 8];
n follows from the sizes of x, where all others cancel. onnx gives up on such a shape, and so on all
that comes after it.

table[:length] has `length cut at 64` rows if the table has 64 of them: as many as asked for, but
not more than there are. Where it is spread over `length` rows, it is `length`, or the model fails.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from onnxopt import inference, match, shape_values, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model

ROUNDS = 4
"""How often inference starts anew with what was found."""

GENERATED = "unk__"
"""How the symbols begin that onnx makes up; they mean something else in the next inference."""

AT_MOST = " cut at "
"""Stands in a symbol between a length and the most rows that there are: the lesser of the two."""

Dims: TypeAlias = "tuple[int | str | None, ...]"


def infer(model: Model) -> None:
    """Find types and shapes as `shapes.infer` does, and sizes of computed shapes beside."""
    shapes.infer(model)
    refine(model)


def refine(model: Model) -> bool:
    """Find sizes of computed shapes in a model whose shapes were inferred; return if there are."""
    known: dict[int, Dims] = {}
    for _ in range(ROUNDS):
        found = _found(model)
        if found.items() <= known.items():
            break
        known |= found
        inference.infer(model, known)
    return bool(known)


def _found(model: Model) -> dict[int, Dims]:
    """Return the dimensions of what nodes of the main graph make, where they are better known."""
    memo: dict[int, shape_values.Elements] = {}
    found = {}
    for node in model.graph.nodes:
        if not match.is_op(node, *RESOLVE):
            continue
        out = node.outputs[0]
        dims = shapes.dims(out)
        if dims is not None and all(_known(d) for d in dims):
            continue
        asked = [shape_values.elements(t, memo=memo) for t in node.inputs]
        better = RESOLVE[node.op](node, asked)
        if better is None or (dims is not None and len(better) != len(dims)):
            continue
        merged = tuple(b if _known(b) else d for b, d in zip(better, dims or better, strict=True))
        if merged != dims:
            found[id(out)] = merged
    return found


def _sliced(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what is left of a tensor whose one axis is cut to a length that is a symbol."""
    dims, bounds = shapes.dims(node.inputs[0]), inputs[1:]
    if dims is None or len(bounds) not in (3, 4) or any(b is None or len(b) != 1 for b in bounds):
        return None
    start, end, axis, *step = (b[0] for b in bounds if b is not None)
    if start != 0 or step not in ([], [1]) or not isinstance(axis, int) or isinstance(end, int):
        return None
    size, symbol = dims[axis], _size(end)
    if not isinstance(size, int) or size < 2 or symbol is None:
        return None
    found = list(dims)
    found[axis] = f"{symbol}{AT_MOST}{size}"
    return tuple(found)


def _joined(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what a Concat makes of tensors; a sum of symbols is written as PyTorch writes it."""
    found = [shapes.dims(t) for t in node.inputs]
    axis = match.attribute(node, "axis", None)
    if not isinstance(axis, int) or any(d is None for d in found):
        return None
    parts = [d[axis] for d in found if d is not None and -len(d) <= axis < len(d)]
    if len(parts) < len(found) or not all(_known(d) for d in parts):
        return None
    number = sum(d for d in parts if isinstance(d, int))
    terms = [*sorted(d for d in parts if isinstance(d, str)), *([str(number)] if number else [])]
    whole = list(found[0] or ())
    whole[axis] = " + ".join(terms) if len(terms) > (number > 0) else number
    return tuple(whole)


def _tiled(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what a Tile makes of a tensor."""
    dims, repeats = shapes.dims(node.inputs[0]), inputs[1]
    if dims is None or repeats is None or len(dims) != len(repeats):
        return None
    pairs = list(zip(dims, repeats, strict=True))
    whole = [d * r if isinstance(d, int) and isinstance(r, int) else None for d, r in pairs]
    return tuple(d if r == 1 else w for (d, r), w in zip(pairs, whole, strict=True))


def _spread(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what arithmetic makes of two tensors, one of which may be cut to a length."""
    found = [shapes.dims(t) for t in node.inputs]
    if len(found) != 2 or any(d is None for d in found):
        return None
    rank = max(len(d or ()) for d in found)
    left, right = ((*(1,) * (rank - len(d or ())), *(d or ())) for d in found)
    return tuple(_wider(a, b) for a, b in zip(left, right, strict=True))


def _wider(a: int | str | None, b: int | str | None) -> int | str | None:
    """Return what two sizes are spread to, None where that is not known."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    cut = next((s for s in (a, b) if isinstance(s, str) and AT_MOST in s), None)
    if cut is not None:
        length = cut.partition(AT_MOST)[0]
        return length if length in (a, b) else None
    return next((s for s in (a, b) if isinstance(s, int)), None)


def _known(dim: int | str | None) -> bool:
    return isinstance(dim, int) or (isinstance(dim, str) and not dim.startswith(GENERATED))


def _size(element: shapes.Element) -> int | str | None:
    """Return an element of a shape as a dimension."""
    if isinstance(element, int):
        return element if element > 0 else None
    named = isinstance(element.key, str) and _known(element.key)
    return element.key if named else None  # type: ignore[return-value]


def _reshaped(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
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


def _expanded(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what an Expand makes of a tensor."""
    dims, asked = shapes.dims(node.inputs[0]), inputs[1]
    if dims is None or asked is None or len(dims) > len(asked):
        return None
    wide = (*(1,) * (len(asked) - len(dims)), *dims)
    sizes = [_size(e) for e in asked]
    return tuple(
        None if d is None or s is None else _wider(d, s) for d, s in zip(wide, sizes, strict=True)
    )


def _ranged(node: gs.Node, inputs: Sequence[shape_values.Elements]) -> Dims | None:
    """Return what a Range from 0 in steps of 1 makes: as many elements as its limit says."""
    if inputs[0] != [0] or inputs[2] != [1] or not inputs[1]:
        return None
    return (_size(inputs[1][0]),)


RESOLVE = {
    "Reshape": _reshaped,
    "Expand": _expanded,
    "Range": _ranged,
    "Concat": _joined,
    "Slice": _sliced,
    "Tile": _tiled,
    "Add": _spread,
    "Mul": _spread,
}
"""What finds the dimensions of an output: from the node, and the elements of its inputs."""

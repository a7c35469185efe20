"""Shape arithmetic (Shape, Gather, Concat, ...) followed back to the dimensions it is made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxopt import match
from onnxopt.shapes import Axis, Element, axis, dims, dtype, static

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import onnx_graphsurgeon as gs

MAX_ELEMENTS = 64
"""Longest tensor that is followed."""

DEPTH = 32
"""Longest chain of nodes that is followed."""

WHOLE = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))
"""Types of shape arithmetic; truth values are followed as 0 and 1."""

Elements: TypeAlias = "list[Element] | None"
"""The elements of a tensor; None where they are not followed."""


def elements(
    tensor: gs.Tensor, depth: int = DEPTH, memo: dict[int, Elements] | None = None
) -> list[Element] | None:
    """Follow shape arithmetic; return the elements of an integer tensor of rank 0 or 1.

    An element that is computed in a way that is not followed is an `Axis` of its own.

    Args:
        tensor: The tensor.
        depth: How many nodes to follow upwards.
        memo: What was found for other tensors, by id; shared between calls while the graph is
            not edited.

    Returns:
        None if it is no such tensor, has no known length, or more than `MAX_ELEMENTS` elements.
    """
    memo = {} if memo is None else memo
    key = id(tensor)
    if key not in memo:
        memo[key] = _elements(tensor, depth, memo)
    return memo[key]


def _elements(tensor: gs.Tensor, depth: int, memo: dict[int, Elements]) -> Elements:
    shape, kind = static(tensor), dtype(tensor)
    node = match.producer(tensor)
    if shape is None and match.is_op(node, "Constant"):  # a function's: inference saw no types
        values = match.constant(tensor)
        shape, kind = (None, None) if values is None else (values.shape, values.dtype)
    if shape is None or kind is None or kind not in WHOLE:
        return None
    if len(shape) > 1 or math.prod(shape) > MAX_ELEMENTS:
        return None
    values = match.constant(tensor)
    if values is not None:
        return [int(v) for v in values.reshape(-1)]
    found: Elements = None
    if node is not None and depth > 0 and match.is_op(node, *FOLLOW):
        inputs = [elements(t, depth - 1, memo) if t.name else None for t in node.inputs]
        found = FOLLOW[node.op](node, inputs)
    if found is None or len(found) != math.prod(shape):
        return [Axis((id(tensor), -1 - i)) for i in range(math.prod(shape))]
    return found


def _shape(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    source = node.inputs[0]
    found = dims(source)
    start, stop = node.attrs.get("start", 0), node.attrs.get("end")
    if found is None or not isinstance(start, int) or not isinstance(stop, int | None):
        return None
    return [e for i in range(len(found))[start:stop] if (e := axis(source, i)) is not None]


def _size(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    found = static(node.inputs[0])
    return None if found is None else [math.prod(found)]


def _same(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    return inputs[0]


def _cast(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    if inputs[0] is None or any(isinstance(e, int) and abs(e) >= 2**31 for e in inputs[0]):
        return None
    if dtype(node.outputs[0]) == np.dtype(np.bool_) and any(e not in (0, 1) for e in inputs[0]):
        return None
    return inputs[0]


def _gather(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    data, index = inputs
    rank = dims(node.inputs[0])
    if data is None or index is None or rank is None or len(rank) != 1:
        return None
    chosen = [i for i in index if isinstance(i, int) and -len(data) <= i < len(data)]
    return [data[i] for i in chosen] if len(chosen) == len(index) else None


def _concat(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    if any(part is None for part in inputs):
        return None
    return [e for part in inputs if part is not None for e in part]


def _slice(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    if inputs[0] is None:
        return None
    found: list[Any]
    if len(inputs) == 1:
        found = [node.attrs.get(name) for name in ("starts", "ends", "axes")]
    else:
        if any(t.name and e is None for t, e in zip(node.inputs, inputs, strict=True)):
            return None
        found = list(inputs[1:])
    found += [None] * (4 - len(found))
    bounds = [
        default if f is None else f for f, default in zip(found, ([], [], [0], [1]), strict=True)
    ]
    if not all(isinstance(b, list) and len(b) == 1 and isinstance(b[0], int) for b in bounds):
        return None
    start, stop, along, step = (b[0] for b in bounds)
    return inputs[0][start:stop:step] if along in (0, -1) and step > 0 else None


def _arithmetic(
    operate: Callable[[int, int], int], neutral: int, commutes: bool
) -> Callable[[gs.Node, Sequence[Elements]], Elements]:
    def one(x: Element, y: Element) -> Element | None:
        if isinstance(x, int) and isinstance(y, int):
            return operate(x, y)
        if y == neutral:
            return x
        return y if commutes and x == neutral else None

    def follow(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
        a, b = inputs
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        n = min(len(a), len(b)) and max(len(a), len(b))
        pairs = zip(a * n if len(a) == 1 else a, b * n if len(b) == 1 else b, strict=True)
        try:
            found = [one(x, y) for x, y in pairs]
        except ZeroDivisionError:
            return None
        if any(isinstance(e, int) and abs(e) >= 2**31 for e in found):
            return None
        out = node.outputs[0]
        return [Axis((id(out), -1 - i)) if e is None else e for i, e in enumerate(found)]

    return follow


def _equal(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    pairs = _aligned(inputs)
    if pairs is None:
        return None
    out = node.outputs[0]
    found = [_alike(*pair) for pair in pairs]
    return [Axis((id(out), -1 - i)) if e is None else int(e) for i, e in enumerate(found)]


def _alike(x: Element, y: Element) -> bool | None:
    """Whether two elements are one number, None where that is not known."""
    if x == y:
        return True
    if isinstance(x, int) and isinstance(y, int):
        return False
    number, other = (x, y) if isinstance(x, int) else (y, x)
    return False if isinstance(number, int) and number < 0 and _is_length(other) else None


def _is_length(element: Element) -> bool:
    """Whether an element is the length of an axis, and not computed: never negative."""
    key = element.key if isinstance(element, Axis) else None
    return isinstance(key, str) or (isinstance(key, tuple) and key[1] >= 0)


def _where(node: gs.Node, inputs: Sequence[Elements]) -> Elements:
    picks = _aligned(inputs)
    if picks is None:
        return None
    out = node.outputs[0]
    found: list[Element] = []
    for i, (condition, yes, no) in enumerate(picks):
        if yes == no or condition == 1:
            found.append(yes)
        else:
            found.append(no if condition == 0 else Axis((id(out), -1 - i)))
    return found


def _aligned(inputs: Sequence[Elements]) -> list[tuple[Element, ...]] | None:
    """Return elements side by side, single ones repeated; None where their numbers differ."""
    known = [found for found in inputs if found is not None]
    lengths = {len(found) for found in known} - {1}
    if len(known) < len(inputs) or len(lengths) > 1:
        return None
    length = next(iter(lengths), 1)
    return list(zip(*(f * length if len(f) == 1 else f for f in known), strict=True))


def _quotient(x: int, y: int) -> int:
    """Divide as ONNX does: towards zero."""
    quotient = abs(x) // abs(y)
    return quotient if (x < 0) == (y < 0) else -quotient


def whole(found: Iterable[Element]) -> bool:
    """Whether all elements are known numbers."""
    return all(isinstance(e, int) for e in found)


FOLLOW: dict[str, Callable[[gs.Node, Sequence[Elements]], Elements]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Mul": _arithmetic(lambda a, b: a * b, 1, True),
    "Add": _arithmetic(lambda a, b: a + b, 0, True),
    "Sub": _arithmetic(lambda a, b: a - b, 0, False),
    "Div": _arithmetic(_quotient, 1, False),
    "Equal": _equal,
    "Where": _where,
}
"""How the elements of an output come from those of the inputs, which have rank 0 or 1 all of them;
a result of the wrong length is discarded."""

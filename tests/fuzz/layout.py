"""What moves elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.scope import Scope, Value

ANY = "fiub"


def with_ints(
    s: Scope, op: str, x: Value, since: int, outputs: int = 1, rest: Any = None, **lists: Any
) -> list[Value] | None:
    """Add a node whose lists of integers are inputs since an opset, attributes before it."""
    rest = rest or {}
    if s.opset < since:
        return s.node(op, [x], outputs, **lists, **rest)
    inputs = [None if v is None else s.ints(*v) for v in lists.values()]
    while inputs and inputs[-1] is None:
        inputs.pop()
    return s.node(op, [x, *inputs], outputs, **rest)


def unsqueeze(s: Scope, x: Value | None, *axes: int) -> Value | None:
    made = x and with_ints(s, "Unsqueeze", x, 13, axes=list(axes))
    return made[0] if made else None


def squeeze(s: Scope, x: Value | None, *axes: int) -> Value | None:
    made = x and with_ints(s, "Squeeze", x, 13, axes=list(axes) or None)
    return made[0] if made else None


def _permutation(s: Scope, rank: int) -> list[int]:
    if rank == 4 and s.flip(60):
        return s.choose([[0, 2, 3, 1], [0, 3, 1, 2]])
    rest, found = list(range(rank)), []
    while rest:
        found.append(rest.pop(s.integer(0, len(rest) - 1)))
    return found


def transpose(s: Scope) -> None:
    """One, a chain, or a pair around something else."""
    x = s.pick(ANY, 2)
    if x is None:
        return
    perm = None if s.flip(15) else _permutation(s, x.rank)
    y = s.one("Transpose", x, perm=perm)
    if s.flip(50) and y is not None:
        middle = s.choose(["Relu", "Sigmoid", "Neg", "Identity", "Add", "Softmax"])
        if middle == "Add":
            sizes = [d for d in y.shape[-1:] if d is not None]
            y = s.one("Add", y, s.const(s.weight(sizes, y.dtype))) or y
        elif s.flip(70):
            y = s.one(middle, y) or y
        back = None if perm is None else [int(i) for i in np.argsort(perm)]
        s.one("Transpose", y, perm=back if s.flip(70) else _permutation(s, y.rank))


def _target(s: Scope, x: Value) -> list[int] | None:
    """Choose a size for each axis, or several for one: its own, 0 to copy it, one -1."""
    target: list[int] = []
    for i, d in enumerate(x.shape):
        aligned = i == len(target)
        if d is None and not (aligned and s.flip(60)):
            if -1 in target:
                return None
            target.append(-1)
        elif d is None or (aligned and s.flip(20)):
            target.append(0)
        elif d and d % 2 == 0 and s.flip(30):
            target += [2, d // 2]
        else:
            target.append(d)
    return target


def reshape(s: Scope) -> None:
    """A constant shape, with zeros that copy and one -1."""
    x = s.pick(ANY)
    target = x and _target(s, x)
    if x is None or target is None:
        return
    if s.flip(30) and len(target) > 1 and min(target[:2]) > 0:
        target[:2] = [target[0] * target[1]]
    if -1 not in target and target and s.flip(30):
        target[s.integer(0, len(target) - 1)] = -1
    if s.flip(20):
        target.insert(s.integer(0, len(target)), 1)
    y = s.one("Reshape", x, s.ints(*target))
    if y is not None and s.flip(20):
        s.one("Reshape", y, s.ints(*s.choose([[-1], [0, -1], [1, -1], [-1, 1]])))


def squeezes(s: Scope) -> None:
    x = s.pick(ANY)
    if x is None:
        return
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    if ones and s.flip(60):
        axis = s.choose(ones)
        squeeze(s, x, *s.choose([[axis], [axis], ones, []]))
        return
    axis = s.integer(0, x.rank)
    if s.flip(20) and s.opset >= 11:
        axis -= x.rank + 1
    y = unsqueeze(s, x, *([0, 1] if s.flip(15) else [axis]))
    if s.flip(20) and y is not None:
        s.choose([lambda: squeeze(s, y, axis), lambda: unsqueeze(s, y, axis)])()


def flatten(s: Scope) -> None:
    x = s.pick(ANY)
    if x is not None:
        s.one("Flatten", x, axis=s.integer(-x.rank if s.opset >= 11 else 0, x.rank))


def concat(s: Scope) -> None:
    x = s.pick(ANY, 1)
    if x is None:
        return
    axis = s.integer(0, x.rank - 1)

    def fits(v: Value) -> bool:
        same = v.rank == x.rank and v.dtype == x.dtype
        return same and all(
            a == b for i, (a, b) in enumerate(zip(v.dims, x.dims, strict=True)) if i != axis
        )

    parts = [x, *(s.pick(ANY, 1, fits) or x for _ in range(s.integer(0, 2)))]
    if x.static and s.flip(25):
        sizes = [2 if i == axis else d or 0 for i, d in enumerate(x.shape)]
        parts.append(s.const(s.weight(sizes, x.dtype)))
    y = s.one("Concat", *parts, axis=axis - (x.rank if s.flip(20) else 0))
    if y is not None and s.flip(25):
        s.one("Concat", y, x, axis=axis)
    size = x.shape[axis]
    if y is not None and size is not None and s.flip(30):
        start, stop = s.choose([(0, size), (size, 2 * size), (size, 2**31 - 1), (1, size)])
        with_ints(s, "Slice", y, 10, starts=[start], ends=[stop], axes=[axis])


def slices(s: Scope) -> None:
    """One slice, or several of one tensor that are put together again."""
    x = s.pick(ANY, 1)
    if x is None:
        return
    axis = s.integer(0, x.rank - 1)
    cuts = s.choose([
        [(0, 1), (1, 2**31 - 1)], [(0, 2**31 - 1)], [(1, 3)], [(-2, 2**31 - 1)], [(0, -1)],
        [(0, 2), (2, 4)], [(0, 1), (1, 2), (2, 3)], [(1, 1)], [(3, 1)],
    ])  # fmt: skip
    step = s.choose([1, 1, 1, 2, -1]) if s.opset >= 10 else 1
    if step < 0:
        cuts = [(-1, -(2**31) + 1)]
    lists = {"axes": [axis - x.rank if s.flip(20) and s.opset >= 10 else axis]}
    if s.opset >= 10 and (step != 1 or s.flip(20)):
        lists["steps"] = [step]
    made = []
    for start, stop in cuts:
        y = with_ints(s, "Slice", x, 10, starts=[start], ends=[stop], **lists)
        made += y or []
    if len(made) > 1 and s.flip(60):
        s.one("Concat", *(reversed(made) if s.flip(20) else made), axis=axis)
    elif made and s.flip(30):
        with_ints(s, "Slice", made[0], 10, starts=[0], ends=[1], axes=[axis])


def split(s: Scope) -> None:
    x = s.pick(ANY, 1, lambda v: any(d is not None and d > 1 for d in v.shape))
    if x is None:
        return
    axis, size = s.choose([(i, d) for i, d in enumerate(x.shape) if d is not None and d > 1])
    sizes = s.choose([[1, size - 1], [size], [size // 2, size - size // 2], None])
    if sizes is None and size % 2 and s.opset < 18:
        return
    rest = {"axis": axis}
    if sizes is None and s.opset >= 18:
        rest["num_outputs"] = 2
    made = with_ints(s, "Split", x, 13, len(sizes or "ab"), rest, split=sizes)
    if made and s.flip(50):
        middle = [s.one("Relu", v) or v for v in made] if s.flip(30) else made
        s.one("Concat", *(reversed(middle) if s.flip(20) else middle), axis=axis)


def gather(s: Scope) -> None:
    x = s.pick(ANY, 1)
    if x is None:
        return
    index = s.pick("i", 0, lambda v: v.dtype.itemsize >= 4) if s.flip(30) else None
    if index is None:
        array = s.choose([0, -1, 1, [0], [0, 1], [1, 0], [0, 0, 1], [[0], [1]], []])
        index = s.const(np.asarray(array, s.choose([np.int64, np.int32])))
    s.one("Gather", x, index, axis=s.integer(0, x.rank - 1))


def repeats(s: Scope) -> None:
    """Expand and Tile."""
    x = s.pick(ANY)
    if x is None:
        return
    if s.flip(40) and x.rank:
        s.one("Tile", x, s.ints(*(s.choose([1, 1, 1, 2]) for _ in range(x.rank))))
    elif s.flip(40):
        other = s.pick(ANY)
        shape = s.one("Shape", other)
        if shape is not None:
            s.one("Expand", x, shape)
    else:
        sizes = [s.choose([1, d or 1]) if d != 1 else s.choose([1, 2]) for d in x.shape]
        s.one("Expand", x, s.ints(*([1] if s.flip(20) else []), *sizes))


def pad(s: Scope) -> None:
    x = s.pick("f", 1)
    if x is None:
        return
    mode = s.choose([None, "constant", "edge", "reflect"])
    pads = [s.choose([0, 0, 0, 1]) for _ in range(2 * x.rank)]
    if x.rank > 2 and s.flip(70):
        pads[:2] = pads[x.rank : x.rank + 2] = [0, 0]
    with_pads(s, x, pads, mode)


def with_pads(s: Scope, x: Value, pads: list[int], mode: str | None = None) -> Value | None:
    fill = s.choose([None, 0.0, 1.5])
    if s.opset < 11:
        return s.one("Pad", x, mode=mode, pads=pads, value=fill)
    inputs = [s.ints(*pads), None if fill is None else s.const(x.dtype.type(fill))]
    if s.opset >= 18 and s.flip(20):
        axis = s.integer(-x.rank, x.rank - 1)
        inputs = [s.ints(pads[0], pads[-1]), inputs[1], s.ints(axis)]
    while inputs[-1] is None:
        inputs.pop()
    return s.one("Pad", x, *inputs, mode=mode)


RECIPES: Sequence[Callable[[Scope], None]] = (
    transpose, transpose, reshape, reshape, squeezes, flatten, concat, slices, split, gather,
    repeats, pad,
)  # fmt: skip

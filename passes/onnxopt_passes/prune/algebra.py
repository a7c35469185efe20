"""The algebra of axes: when two axes are one, and what an axis is made of.

`unify` says that two axes have the same indices, `tail` and `split` take an axis apart. Where they
cannot, both sides are frozen with the reason: nothing is guessed.
"""

from __future__ import annotations

import math

from onnxopt_passes.prune.axes import (
    NOTHING,
    ONE,
    Axis,
    Prod,
    Sum,
    Var,
    freeze,
    leaves,
    new,
    parted,
    resolve,
    size,
)


def unify(a: Axis, b: Axis, why: str) -> None:
    """Say that two axes have the same indices in the same order.

    Args:
        a: An axis.
        b: Another.
        why: The reason that both are frozen with if they cannot be told to be the same.
    """
    a, b = resolve(a), resolve(b)
    if a is b or a == b:
        return
    if size(a) is None and size(b) is None:
        _meet_open(a, b, why)
    elif size(a) is None or size(a) != size(b):
        _freeze_both(a, b, why)
    elif isinstance(a, Var):
        _bind(a, b, why)
    elif isinstance(b, Var):
        _bind(b, a, why)
    elif isinstance(a, Sum) and isinstance(b, Sum):
        _meet_sums(list(a.terms), list(b.terms), why)
    elif isinstance(a, Prod) and isinstance(b, Prod):
        _meet_products(list(a.factors), list(b.factors), why)
    elif isinstance(a, Sum) and isinstance(b, Prod):
        _distribute(a, b, why)
    elif isinstance(a, Prod) and isinstance(b, Sum):
        _distribute(b, a, why)


def _meet_open(a: Axis, b: Axis, why: str) -> None:
    """Unify two axes of unknown length: their known inner parts, if these are of one length."""
    (leads, ours), (others, theirs) = parted(a), parted(b)
    sizes = [[size(factor) for factor in part] for part in (leads, others)]
    if size(ours) != size(theirs):
        _freeze_both(a, b, why)
        return
    unify(ours, theirs, why)
    if sizes[0] == sizes[1] and sizes[0].count(None) == 1:
        for one, other in zip(leads, others, strict=True):
            if size(one) is not None:
                unify(one, other, why)
    else:
        for factor in (*leads, *others):
            freeze(factor, why)


def _freeze_both(a: Axis, b: Axis, why: str) -> None:
    freeze(a, why)
    freeze(b, why)


def _bind(var: Var, axis: Axis, why: str) -> None:
    if isinstance(axis, Var):
        var.unite(axis)
    elif any(leaf is var for leaf in leaves(axis)):
        _freeze_both(var, axis, why)
    else:
        var.bind(axis)


def _meet_sums(a: list[Axis], b: list[Axis], why: str) -> None:
    """Unify two sums of one size, cut at the boundaries of both."""
    a.reverse()
    b.reverse()
    while a and b:
        first, second = a.pop(), b.pop()
        sizes = (size(first) or 0, size(second) or 0)
        if sizes[0] == sizes[1]:
            unify(first, second, why)
            continue
        longer, stack = (first, a) if sizes[0] > sizes[1] else (second, b)
        shorter = second if longer is first else first
        parts = split(longer, min(sizes))
        if parts is None:
            for part in (first, second, *a, *b):
                freeze(part, why)
            return
        unify(parts[0], shorter, why)
        stack.append(parts[1])


def _meet_products(a: list[Axis], b: list[Axis], why: str) -> None:
    """Unify two products of one size, refined from the last factor on."""
    while a and b:
        first, second = a.pop(), b.pop()
        sizes = (size(first) or 0, size(second) or 0)
        shared = math.gcd(*sizes)
        cuts = (tail(first, shared), tail(second, shared)) if shared > 1 else (None, None)
        if cuts[0] is None or cuts[1] is None or (sizes[0] != shared and sizes[1] != shared):
            for part in (first, second, *a, *b):
                freeze(part, why)
            return
        unify(cuts[0][1], cuts[1][1], why)
        for (head, _), stack in zip(cuts, (a, b), strict=True):  # type: ignore[misc]
            if head != ONE:
                stack.append(head)


def _distribute(total: Sum, product: Prod, why: str) -> None:
    """Unify a sum and a product: cut the product's first factor where the terms end."""
    rest = Prod(product.factors[1:])
    unit = size(rest) or 0
    pieces: list[list[Axis]] = [[]]
    length = 0
    for term in total.terms:
        pieces[-1].append(term)
        length += size(term) or 0
        if unit and length % unit == 0:
            pieces.append([])
    pieces.pop()
    if len(pieces) < 2:
        _freeze_both(total, product, why)
        return
    lead = product.factors[0]
    for piece in pieces:
        part = Sum(tuple(piece))
        cut = split(lead, (size(part) or 0) // unit)
        if cut is None:
            _freeze_both(total, product, why)
            return
        unify(part, Prod((cut[0], rest)), why)
        lead = cut[1]


def tail(axis: Axis, length: int) -> tuple[Axis, Axis] | None:
    """Write an axis as head x tail with a tail of that length; None where it has no such factors.

    The head is `ONE` if the tail is the whole axis.
    """
    axis = resolve(axis)
    whole = size(axis)
    if whole is None and isinstance(axis, Prod) and length > 0:
        return _tail_of_product(axis, length)
    if whole is None or length < 1 or whole % length:
        return None
    if length == whole:
        return ONE, axis
    if length == 1:
        return axis, ONE
    if isinstance(axis, Var):
        head, rest = _like(axis, whole // length), _like(axis, length)
        axis.bind(Prod((head, rest)))
        return head, rest
    return _tail_of_product(axis, length) if isinstance(axis, Prod) else _tail_of_sum(axis, length)


def _like(var: Var, length: int) -> Axis:
    return new(length, var.frozen, var.head, var.soft)


def _tail_of_product(axis: Prod, length: int) -> tuple[Axis, Axis] | None:
    heads, rest, left = list(axis.factors), [], length
    while left > 1:
        factor = heads.pop() if heads else ONE
        whole = size(factor)
        if whole is None or factor == ONE:
            return None
        if whole and left % whole == 0:
            rest.append(factor)
            left //= whole
            continue
        parts = tail(factor, left)
        if parts is None:
            return None
        heads.append(parts[0])
        rest.append(parts[1])
        break
    return Prod(tuple(heads)), Prod(tuple(reversed(rest)))


def _tail_of_sum(axis: Sum, length: int) -> tuple[Axis, Axis] | None:
    if any((size(term) or 0) % length for term in axis.terms):
        return None
    parts = [tail(term, length) for term in axis.terms]
    if any(p is None for p in parts):
        return None
    found = [p for p in parts if p is not None]
    for _, rest in found[1:]:
        unify(found[0][1], rest, "blocks of one axis that differ")
    return Sum(tuple(head for head, _ in found)), found[0][1]


def split(axis: Axis, length: int) -> tuple[Axis, Axis] | None:
    """Write an axis as its first `length` indices and the rest; None where it cannot be cut."""
    axis = resolve(axis)
    whole = size(axis)
    if whole is None or not 0 <= length <= whole:
        return None
    if length in (0, whole):
        return (axis, NOTHING) if length else (NOTHING, axis)
    if isinstance(axis, Var):
        first, rest = _like(axis, length), _like(axis, whole - length)
        axis.bind(Sum((first, rest)))
        return first, rest
    return _split_product(axis, length) if isinstance(axis, Prod) else _split_sum(axis, length)


def _split_product(axis: Prod, length: int) -> tuple[Axis, Axis] | None:
    rest = Prod(axis.factors[1:])
    unit = size(rest) or 1
    parts = None if length % unit else split(axis.factors[0], length // unit)
    return None if parts is None else (Prod((parts[0], rest)), Prod((parts[1], rest)))


def _split_sum(axis: Sum, length: int) -> tuple[Axis, Axis] | None:
    first: list[Axis] = []
    terms = list(reversed(axis.terms))
    while length:
        term = terms.pop()
        whole = size(term) or 0
        if whole <= length:
            first.append(term)
            length -= whole
            continue
        parts = split(term, length)
        if parts is None:
            return None
        first.append(parts[0])
        terms.append(parts[1])
        break
    return Sum(tuple(first)), Sum(tuple(reversed(terms)))

"""The algebra of axes: what an axis of a tensor is made of, and when two axes are one.

    axis := Var(n) | Prod(axis, axis, ...) | Sum(axis, axis, ...)

`Prod` is row-major, most significant factor first: heads x width. `Sum` is what lies one behind the
other: the inputs of a Concat. A `Var` is a dimension; variables that must shrink together are
united (union-find), and one that a Reshape or a Split takes apart is bound to the finer
expression, as terms are in Prolog. `unify` says that two axes have the same indices, `tail` and
`split` take an axis apart. Where they cannot, both sides are frozen with the reason: nothing is
guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np


class Var:
    """A dimension.

    Attributes:
        size: Its length; None where it is known only when the model runs.
        frozen: Why no index may go; None if they may.
        head: Whether it is the width within the heads of an attention.
        soft: Why the result changes where an index goes, beyond what it had a part in: a mean is
            taken over the axis. None if nothing of the kind is known.
    """

    __slots__ = ("_bound", "_parent", "frozen", "head", "size", "soft")

    def __init__(
        self,
        size: int | None,
        frozen: str | None = None,
        head: bool = False,
        soft: str | None = None,
    ) -> None:
        self.size, self.frozen, self.head, self.soft = size, frozen, head, soft
        self._parent: Var | None = None
        self._bound: Axis | None = None

    def root(self) -> Var:
        """Return the variable that stands for all that are united with this one."""
        node = self
        while node._parent is not None:
            if node._parent._parent is not None:
                node._parent = node._parent._parent
            node = node._parent
        return node

    def unite(self, other: Var) -> None:
        """Make two unbound roots one."""
        other._parent = self
        self.frozen = self.frozen or other.frozen
        self.head = self.head or other.head
        self.soft = self.soft or other.soft

    def bind(self, axis: Axis) -> None:
        """Make an unbound root stand for a finer expression of the same size."""
        self._bound = axis
        if self.frozen is not None:
            freeze(axis, self.frozen)
        if self.head:
            mark_head(axis)
        if self.soft is not None:
            soften(axis, self.soft)

    @property
    def bound(self) -> Axis | None:
        """The expression that a root is bound to."""
        return self._bound


@dataclass(frozen=True)
class Prod:
    """A product of axes, row-major; the empty one is the axis of length 1."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True)
class Sum:
    """Axes one behind the other; the empty one is the axis of length 0."""

    terms: tuple[Axis, ...]


Axis: TypeAlias = "Var | Prod | Sum"

ONE = Prod(())
"""The axis of length 1: there is nothing to remove."""

NOTHING = Sum(())
"""The axis of length 0."""


def new(
    size: int | None, frozen: str | None = None, head: bool = False, soft: str | None = None
) -> Axis:
    """Return an axis of its own."""
    if size is None:
        return Var(None, frozen or "its length is known only when the model runs")
    if size < 2:
        return ONE if size == 1 else NOTHING
    return Var(size, frozen, head, soft)


def size(axis: Axis) -> int | None:
    """Return the length of an axis; None where it is known only when the model runs."""
    if isinstance(axis, Var):
        return axis.size
    parts = axis.factors if isinstance(axis, Prod) else axis.terms
    found = [size(p) for p in parts]
    known = [n for n in found if n is not None]
    if len(known) < len(found):
        return None
    return math.prod(known) if isinstance(axis, Prod) else sum(known)


def inner(axis: Axis) -> Axis:
    """Return the product of the factors behind the last one of unknown length; `ONE` if none is.

    Of an axis of known length it is the axis itself. Batch x heads, the batch being open, has the
    heads as its inner axis.
    """
    return _parted(axis)[1]


def _parted(axis: Axis) -> tuple[list[Axis], Axis]:
    """Return the factors up to the last one of unknown length, and the product of the others."""
    axis = resolve(axis)
    if size(axis) is not None:
        return [], axis
    factors: list[Axis] = list(axis.factors) if isinstance(axis, Prod) else [axis]
    last = max(i for i, factor in enumerate(factors) if size(factor) is None)
    return factors[: last + 1], resolve(Prod(tuple(factors[last + 1 :])))


def resolve(axis: Axis) -> Axis:
    """Return the normal form: roots for variables, what they are bound to, nothing nested alike."""
    if isinstance(axis, Var):
        root = axis.root()
        if root.bound is None:
            return root
        found = resolve(root.bound)
        root._bound = found
        return found
    if isinstance(axis, Prod):
        factors = _flat(axis.factors, Prod)
        return factors[0] if len(factors) == 1 else Prod(tuple(factors))
    terms = _flat(axis.terms, Sum)
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _flat(parts: tuple[Axis, ...], kind: type[Prod] | type[Sum]) -> list[Axis]:
    found: list[Axis] = []
    for part in map(resolve, parts):
        if isinstance(part, kind):
            found.extend(part.factors if isinstance(part, Prod) else part.terms)
        else:
            found.append(part)
    return found


def leaves(axis: Axis) -> list[Var]:
    """Return the variables of an axis, each as often as it occurs."""
    found: list[Var] = []
    stack = [resolve(axis)]
    while stack:
        part = stack.pop()
        if isinstance(part, Var):
            found.append(part)
        else:
            stack.extend(reversed(part.factors if isinstance(part, Prod) else part.terms))
    return found


def freeze(axis: Axis, reason: str) -> None:
    """Let no index of an axis go; the first reason stands."""
    for var in leaves(axis):
        if var.frozen is None:
            var.frozen = reason


def soften(axis: Axis, reason: str) -> None:
    """Say that a mean is taken over an axis; the first reason stands."""
    for var in leaves(axis):
        if var.soft is None:
            var.soft = reason


def mark_head(axis: Axis) -> None:
    """Say that an axis is the width within the heads of an attention."""
    for var in leaves(axis):
        var.head = True


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
    (leads, ours), (others, theirs) = _parted(a), _parted(b)
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


def places(axis: Axis) -> list[tuple[Var, np.ndarray]]:
    """Return, for each occurrence of a variable, which of its indices each position belongs to.

    Returns:
        Pairs of a variable and int64 of the length of the axis, -1 where it has no part.
    """
    axis = resolve(axis)
    if isinstance(axis, Var):
        return [(axis, np.arange(axis.size or 0))]
    found: list[tuple[Var, np.ndarray]] = []
    whole = size(axis) or 0
    done = 0 if isinstance(axis, Sum) else 1
    for part in axis.terms if isinstance(axis, Sum) else axis.factors:
        length = size(part) or 0
        for var, index in places(part):
            if isinstance(axis, Sum):
                spread = np.full(whole, -1)
                spread[done : done + length] = index
            else:
                spread = np.tile(np.repeat(index, whole // (done * length)), done)
            found.append((var, spread))
        done = done + length if isinstance(axis, Sum) else done * length
    return found


def kept(axis: Axis, keep: dict[Var, np.ndarray]) -> np.ndarray:
    """Return the positions of an axis that stay, ascending.

    Args:
        axis: The axis.
        keep: By root variable, a boolean an index; variables that are missing stay whole.
    """
    stays = np.ones(size(axis) or 0, bool)
    for var, index in places(axis):
        if var in keep:
            stays &= np.where(index < 0, True, keep[var][index])
    return np.flatnonzero(stays)


def width(axis: Axis, keep: dict[Var, np.ndarray]) -> int | None:
    """Return how many indices of an axis stay."""
    axis = resolve(axis)
    if isinstance(axis, Var):
        return int(keep[axis].sum()) if axis in keep else axis.size
    parts = [width(part, keep) for part in (axis.factors if isinstance(axis, Prod) else axis.terms)]
    known = [n for n in parts if n is not None]
    if len(known) < len(parts):
        return None
    return math.prod(known) if isinstance(axis, Prod) else sum(known)

"""Axes: what an axis of a tensor is made of.

    axis := Var(n) | Prod(axis, axis, ...) | Sum(axis, axis, ...)

`Prod` is row-major, most significant factor first: heads x width. `Sum` is what lies one behind the
other: the inputs of a Concat. A `Var` is a dimension; variables that must shrink together are
united (union-find), and one that a Reshape or a Split takes apart is bound to the finer
expression, as terms are in Prolog. `algebra` says which axes are one and takes them apart,
`positions` where the indices of a variable lie along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias


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
    return parted(axis)[1]


def parted(axis: Axis) -> tuple[list[Axis], Axis]:
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

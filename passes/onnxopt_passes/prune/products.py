"""Products of queries and keys: where they are, what is measured of them, and from which weights.

Queries, keys and values often come from one weight, whose columns are the queries of all heads,
then their keys, then their values, or in another order. Which they are is tried: without its own
columns a query is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import match
from onnxopt.model import ir
from onnxopt.statistics import Tap
from onnxopt_passes.prune import axes, rotate
from onnxopt_passes.prune.groups import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.runtime import Settings
    from onnxopt.samples import Feed
    from onnxopt_passes.prune.analysis import Analysis
    from onnxopt_passes.prune.blocks import Blocks, Place
    from onnxopt_passes.prune.rotate import Basis


class Part(Enum):
    """What slices of a weight are to an attention.

    Attributes:
        QUERY: They make queries.
        KEY: They make keys.
        VALUE: They make values.
        READER: They read what comes of the values.
    """

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    READER = "reader"


@dataclass(frozen=True)
class Product:
    """The product of queries and keys of a group.

    Attributes:
        blocks: The group.
        queries: The tensor of the queries, (..., blocks, ..., n).
        keys: That of the keys, (..., blocks, ..., n, positions).
    """

    blocks: Blocks
    queries: gs.Tensor
    keys: gs.Tensor


def find(analysis: Analysis, found: Sequence[Blocks]) -> list[Product]:
    """Return the groups that meet in one product."""
    shapes = analysis.sheet.known
    by_var = {analysis.variables[b.group.name].root(): b for b in found}
    seen: dict[str, list[Product]] = {}
    for node in analysis.model.graph.nodes:
        if not match.is_op(node, "MatMul"):
            continue
        query, key = node.inputs
        ours, theirs = shapes(query), shapes(key)
        inner = axes.resolve(ours[-1]) if ours else None
        blocks = by_var.get(inner) if isinstance(inner, axes.Var) else None
        if blocks is None or theirs is None or len(theirs) < 2 or axes.resolve(theirs[-2]) != inner:
            continue
        if all(_holder(shape, blocks) is not None for shape in (ours, theirs)):
            seen.setdefault(blocks.group.name, []).append(Product(blocks, query, key))
    return [found[0] for found in seen.values() if len(found) == 1]


def _holder(shape: Sequence[axes.Axis] | None, blocks: Blocks) -> int | None:
    """Return which axis of a tensor is the blocks."""
    places = [i for i, axis in enumerate(shape or ()) if axes.resolve(axis) is blocks.block]
    return places[0] if len(places) == 1 else None


def bases(
    analysis: Analysis,
    found: Sequence[Product],
    feeds: Iterable[Feed],
    settings: Settings,
) -> list[Basis]:
    """Return the basis of each product, from its queries and keys on samples.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    tap = Tap(analysis.model, [t for p in found for t in (p.queries, p.keys)], settings)
    sums: list[Any] = [0.0] * (2 * len(found))
    for feed in feeds:
        values = iter(tap(feed))
        for i, p in enumerate(found):
            queries, keys = (_rows(analysis, p, t, next(values)) for t in (p.queries, p.keys))
            keys = keys - keys.mean(axis=1, keepdims=True)
            sums[2 * i] += np.matmul(queries.transpose(0, 2, 1), queries)
            sums[2 * i + 1] += np.matmul(keys.transpose(0, 2, 1), keys)
    return [rotate.products(*sums[2 * i : 2 * i + 2]) for i in range(len(found))]


def _rows(analysis: Analysis, product: Product, tensor: gs.Tensor, value: np.ndarray) -> np.ndarray:
    """Return queries or keys as (blocks, rows, n)."""
    holder = _holder(analysis.sheet.axes(tensor), product.blocks)
    width = -2 if tensor is product.keys else -1
    moved = np.moveaxis(value, (holder, width), (0, -1))  # type: ignore[arg-type]
    return np.asarray(moved.reshape(len(moved), -1, moved.shape[-1]), np.float64)


def parts(
    analysis: Analysis, found: Sequence[Product], feed: Feed, settings: Settings
) -> list[list[tuple[Place, list[Part]]]]:
    """Return for each product where its width lies, and what the columns there make.

    Args:
        analysis: Of the model; its weights are written to, and written back.
        found: The products.
        feed: Inputs to try on.
        settings: How the model is loaded.
    """
    above = []
    for product in found:
        inner = analysis.variables[product.blocks.group.name].root()
        above.append([_above(analysis, t, inner) for t in (product.queries, product.keys)])
    shared = [
        [p for p in product.blocks.places if id(p.member.constant) in ours & theirs]
        for product, (ours, theirs) in zip(found, above, strict=True)
    ]
    columns = _columns(analysis, found, shared, feed, settings)

    def part(place: Place, ours: set[int], theirs: set[int]) -> Part:
        key = id(place.member.constant)
        if place.member.role is Role.CONSUMER:
            return Part.READER
        return Part.QUERY if key in ours else Part.KEY if key in theirs else Part.VALUE

    made = []
    for product, sides, both, own in zip(found, above, shared, columns, strict=True):
        rows = []
        for place in product.blocks.places:
            count = place.columns[0].shape[1]
            rows.append((place, own[:count] if place in both else [part(place, *sides)] * count))
        made.append(rows)
    return made


def _columns(
    analysis: Analysis,
    found: Sequence[Product],
    shared: Sequence[Sequence[Place]],
    feed: Feed,
    settings: Settings,
) -> list[list[Part]]:
    """Return for each product what the columns make of weights that queries share with keys."""
    places = [place for both in shared for place in both]
    before = {id(p.member.constant): (p.member.constant, p.member.constant.values) for p in places}
    made: list[list[Part]] = [[] for _ in found]
    for column in range(max((p.columns[0].shape[1] for p in places), default=0)):
        for place in places:
            place.recast(partial(_without, column))
        tap = Tap(analysis.model, [t for p in found for t in (p.queries, p.keys)], settings)
        values = iter(tap(feed))
        for constant, old in before.values():
            constant.values = old
        for parts_of in made:
            query, key = (not np.any(next(values)) for _ in range(2))
            parts_of.append(Part.QUERY if query else Part.KEY if key else Part.VALUE)
    return made


def _without(gone: int, _: int, column: int, slices: np.ndarray) -> np.ndarray:
    return np.zeros_like(slices) if column == gone else slices


def _above(analysis: Analysis, tensor: gs.Tensor, inner: axes.Var) -> set[int]:
    """Return the weights with a variable that a tensor with it comes from, by id."""
    found: set[int] = set()
    seen: set[int] = set()
    stack = [tensor]
    while stack:
        here = stack.pop()
        shape = analysis.sheet.known(here)
        if id(here) in seen or not shape or not any(inner in axes.leaves(a) for a in shape):
            continue
        seen.add(id(here))
        if isinstance(here, ir.Constant):
            found.add(id(here))
        stack.extend(t for node in here.inputs for t in node.inputs)
    return found

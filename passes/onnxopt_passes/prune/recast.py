"""A model recast before it is cut, so that its groups in blocks lose what each block can spare.

Widths within heads get a basis that sorts them (`rotate`); other widths in blocks have the indices
of each block put in order (`ragged`). The recast model computes the same, which is tried on inputs:
a group with which it does not stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.errors import SamplesError, SpecError
from onnxopt.model import ir
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.prune import blocks, products, ragged, rotate
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.budget import CURVES, thinned
from onnxopt_passes.prune.collect import collect
from onnxopt_passes.prune.decide import ASIDE
from onnxopt_passes.prune.groups import Role
from onnxopt_passes.prune.products import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.samples import Samples
    from onnxopt_passes.prune.analysis import Analysis
    from onnxopt_passes.prune.blocks import Blocks, Place
    from onnxopt_passes.prune.certificate import Certifier
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.obs import Ranking
    from onnxopt_passes.prune.observe import Lengths
    from onnxopt_passes.prune.plan import Plan
    from onnxopt_passes.prune.rotate import Basis

FLOATS = (np.float32, np.float64)
"""Types that a matrix may be put into without a loss that shows."""


@dataclass(frozen=True)
class Recast:
    """What came out.

    Attributes:
        model: The recast model.
        orders: Of groups whose blocks were put in order: int64 (blocks, n), which index of the
            source's block each index is now.
        rankings: Of groups that no layer reads and that a basis has sorted.
        turned: Groups that have another basis.
    """

    model: Model
    orders: Mapping[str, np.ndarray] = field(default_factory=dict)
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    turned: tuple[str, ...] = ()

    def facts(self) -> dict[str, str]:
        """Return it as the JSON report has it: what was done to which group."""
        how = dict.fromkeys(self.orders, "blocks ordered")
        return how | dict.fromkeys(self.turned, "basis sorted")


@dataclass(frozen=True)
class _Way:
    """One way to recast a group."""

    group: str
    places: Sequence[Place]
    write: Callable[[], None]
    order: np.ndarray | None = None
    ranking: Ranking | None = None


def prepared(
    certifier: Certifier,
    groups: Iterable[Group],
    ctx: Context,
    planned: Plan | None,
    by_samples: bool,
) -> Recast:
    """Return the model of a certifier recast as samples have it, or as it was planned.

    Args:
        certifier: Of the source.
        groups: Those that may be cut.
        ctx: Where the samples are.
        planned: The plan, if there is one.
        by_samples: Whether cuts are chosen on samples.

    Raises:
        SpecError: The plan is for another model.
        SamplesError: It needs samples and has none.
        CannotRun: onnxruntime cannot run the model.
    """
    source, names = certifier.model, [g.name for g in groups]
    if planned is not None:
        names = [name for name in names if name in planned.turned]
        source = permuted(source, planned.orders, certifier.observed)
        if names and not by_samples:
            raise SamplesError(
                f"the plan keeps a sorted basis of {names[0]!r}: give the --calib samples"
            )
    if not by_samples or ctx.calibration is None or not names:
        return Recast(source)
    samples, _ = ctx.calibration.split(ASIDE, ctx.seed)  # the others judge
    settings = Settings(True, ctx.threads, ctx.custom_ops)
    return recast(source, names, samples, settings, certifier.observed, certifier.differs, ctx.seed)


def recast(
    source: Model,
    names: Iterable[str],
    samples: Samples,
    settings: Settings,
    observed: Lengths,
    differs: Callable[[Model], str | None],
    seed: int = 0,
) -> Recast:
    """Return the model with each group in blocks sorted block by block.

    Args:
        source: Not changed.
        names: Groups that may be cut; others stay as they are.
        samples: What importance is measured on.
        settings: How the model is loaded.
        observed: Lengths of axes that runs have shown.
        differs: Tells how a model differs from the source, None where it does not.
        seed: Draws rows.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    made = source.clone()
    analysis = analyse(made, observed=observed)
    wanted = set(names)
    found = [b for b in blocks.find(analysis) if b.group.name in wanted]
    if not found:
        return Recast(source)
    ways = _ways(analysis, found, samples, settings, seed)
    before = _values(p for way in ways for p in way.places)
    for way in ways:
        way.write()
    if differs(made) is not None:
        _restore(before)
        ways = [way for way in ways if _holds(way, made, differs)]
    return Recast(
        made,
        {w.group: w.order for w in ways if w.order is not None},
        {w.group: w.ranking for w in ways if w.ranking is not None},
        tuple(w.group for w in ways if w.order is None),
    )


def permuted(source: Model, orders: Mapping[str, np.ndarray], observed: Lengths) -> Model:
    """Return a model with the indices of blocks in given orders, by group.

    Raises:
        SpecError: A group has no blocks, or not so many.
    """
    made = source.clone()
    found = {b.group.name: b for b in blocks.find(analyse(made, observed=observed))}
    for name, order in orders.items():
        if name not in found or found[name].count != len(order):
            raise SpecError(f"the plan has {len(order)} blocks of {name!r}, the model has others")
        ragged.permute(found[name], order)
    return made


def _holds(way: _Way, made: Model, differs: Callable[[Model], str | None]) -> bool:
    """Recast a group of a model if it then computes the same; return whether it does."""
    before = _values(way.places)
    way.write()
    if differs(made) is None:
        return True
    _restore(before)
    return False


def _values(places: Iterable[Place]) -> list[tuple[gs.Constant, np.ndarray]]:
    constants = {id(p.member.constant): p.member.constant for p in places}
    return [(constant, constant.values) for constant in constants.values()]


def _restore(before: Iterable[tuple[gs.Constant, np.ndarray]]) -> None:
    for constant, values in before:
        constant.values = values


def _ways(
    analysis: Analysis, found: list[Blocks], samples: Samples, settings: Settings, seed: int
) -> list[_Way]:
    """Return how groups may be recast."""
    readers = {ir.label(m.node) for b in found for m in b.group.consumers}
    layers = [x for x in linear.find_all(analysis.model.graph) if x.name in readers]
    some = thinned(samples, CURVES)
    reads = collect(analysis.model, layers, some.feeds, some.count(), seed, settings)
    heads = [b for b in found if b.group.head and _turnable(b)]
    pairs = products.find(analysis, heads)
    ways = []
    if pairs:
        bases = products.bases(analysis, pairs, some.feeds(), settings)
        parts = products.parts(analysis, pairs, next(some.feeds()), settings)
        for pair, basis, rows in zip(pairs, bases, parts, strict=True):
            ways += _attention(pair.blocks, basis, rotate.values(pair.blocks, reads), rows)
    met = {pair.blocks.group.name for pair in pairs}
    for item in (b for b in found if b.group.name not in met):
        own = rotate.values(item, reads) if item in heads else None
        if own is not None:
            ways.append(_one(item, own))
        elif (order := ragged.orders(item, reads)) is not None:
            ways.append(_ordered(item, order))
    return ways


def _turnable(item: Blocks) -> bool:
    return all(p.member.constant.dtype in FLOATS and p.across is None for p in item.places)


def _ordered(item: Blocks, order: np.ndarray) -> _Way:
    return _Way(item.group.name, item.places, lambda: ragged.permute(item, order), order)


def _one(item: Blocks, basis: Basis) -> _Way:
    """Return how to turn the values of heads."""
    makers, readers = ([m] * item.places[0].columns[0].size for m in (basis.makers, basis.readers))

    def write() -> None:
        for place in item.places:
            rotate.turn(place, readers if place.member.role is Role.CONSUMER else makers)

    return _Way(item.group.name, item.places, write)


def _attention(
    item: Blocks, basis: Basis, values: Basis | None, rows: Sequence[tuple[Place, list[Part]]]
) -> list[_Way]:
    """Return how to turn queries and keys, and values that share their width; if it is known."""
    sides = {Part.QUERY: basis.makers, Part.KEY: basis.readers}
    bases = [basis]
    if values is not None:
        sides |= {Part.VALUE: values.makers, Part.READER: values.readers}
        bases.append(values)
    if any(part not in sides for _, parts in rows for part in parts):
        return []

    def write() -> None:
        for place, parts in rows:
            rotate.turn(place, [sides[part] for part in parts])

    return [_Way(item.group.name, item.places, write, ranking=rotate.ranking(bases))]

"""From groups and a wish to a cut model: parts the samples, draws curves, offers widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt.errors import SamplesError
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt_passes.prune import branch, cells, search, surfaces, widths
from onnxopt_passes.prune.budget import CURVES, Budget, Kind, Result, thinned
from onnxopt_passes.prune.collect import HELD, collect
from onnxopt_passes.prune.consumers import ranking
from onnxopt_passes.prune.judge import Judge
from onnxopt_passes.prune.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.statistics.layer import Linear
    from onnxopt_passes.prune.allocate import Work
    from onnxopt_passes.prune.collect import Read
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.obs import Ranking
    from onnxopt_passes.prune.search import Space

ASIDE = 0.2
"""Share of the calibration samples that only judges."""

MOST_ASIDE = 400
"""Samples that judge, at most: they are run for each proposal."""

LEAST_SAMPLES = 2 * HELD
"""Fewer calibration samples cannot be parted into those to fit, to choose a ridge and to judge."""


@dataclass(frozen=True)
class Wish:
    """How much to cut.

    Attributes:
        kind: What the budget limits.
        value: The ratio, the share of the source's cost, or the drop.
        align: Offer only widths that pay on this machine; else every width.
        least: The smallest width of a group; above 1 no branch goes whole.
    """

    kind: Kind
    value: float
    align: bool = True
    least: int = 1


@dataclass(frozen=True)
class Decision:
    """What came out.

    Attributes:
        result: The cut model.
        place: The groups that were open to a choice.
        unranked: Groups that no layer with samples reads, and that therefore stayed whole.
    """

    result: Result
    place: Space
    unranked: tuple[str, ...]


def decide(
    source: Model,
    groups: Sequence[Group],
    cut: Callable[[Model, Mapping[str, np.ndarray]], Model],
    ctx: Context,
    wish: Wish,
    rankings: Mapping[str, Ranking] | None = None,
    sorted_ones: Mapping[str, Ranking] | None = None,
) -> Decision:
    """Return the best cut of a model.

    Args:
        source: The uncut model.
        groups: Groups that may be cut.
        cut: As in `Workshop`.
        ctx: Samples, seed, threads and metric are taken from it.
        wish: How much to cut.
        rankings: Orders and curves by another criterion; None for OBS on the samples.
        sorted_ones: Those of groups that no layer reads and OBS cannot rank.

    Raises:
        SamplesError: There are too few samples.
        BudgetError: The budget cannot be met.
        CannotRun: The model cannot be run, or not in parts.
    """
    if ctx.calibration is None or ctx.calibration.count() < LEAST_SAMPLES:
        raise SamplesError(f"prune needs at least {LEAST_SAMPLES} calibration samples to choose on")
    samples, aside = ctx.calibration.split(ASIDE, ctx.seed)
    settings = Settings(optimize=True, threads=ctx.threads, custom_ops=ctx.custom_ops)
    layers = linear.find_all(source.graph)
    some = thinned(samples, CURVES)
    reads = collect(source, layers, some.feeds, some.count(), ctx.seed, settings)
    read_by = cells.collect(source, some.feeds(), settings, ctx.seed)
    if rankings is None:
        found = {g.name: ranking(g, reads, wish.least, read_by) for g in groups}
        rankings = {name: r for name, r in found.items() if r is not None}
        rankings = {**rankings, **(sorted_ones or {})}
    offered = _Offer(layers, wish, ctx.threads)
    place = search.space(
        groups,
        rankings,
        offered.widths,
        lambda chosen: _works(chosen, reads, offered, settings.threads),
    )
    shop = Workshop(source, groups, reads, cut, ctx.seed, settings, read_by)
    judge = Judge(source, thinned(aside, MOST_ASIDE).feeds(), ctx.metric, settings)
    result = Budget(shop, place, judge, samples, wish.kind, wish.value).run()
    return Decision(result, place, tuple(g.name for g in groups if g.name not in rankings))


def _works(
    chosen: Sequence[Group], reads: Mapping[str, Read], offered: _Offer, threads: int
) -> list[Work]:
    """Return what weights cost in the unit of the budget."""
    if offered.wish.kind == "params":
        return search.works(chosen, search.parameters(reads))
    if offered.wish.kind != "latency":
        return search.works(chosen, search.multiplications(reads))
    found = {}
    for read in reads.values():
        name = read.layer.weight.name
        found[name] = surfaces.timed(read.layer, read.shape, offered.paying(name), threads)
    return search.works(chosen, {name: s.whole for name, s in found.items()}, found)


class _Offer:
    """Which widths groups may take."""

    def __init__(self, layers: Sequence[Linear], wish: Wish, threads: int) -> None:
        self._families = {layer.weight.name: _family(layer) for layer in layers}
        self.wish, self._threads = wish, threads
        self._branches: dict[int, str] = {}

    def widths(self, group: Group) -> tuple[int, ...]:
        """Return them, ascending."""
        wish = self.wish
        droppable = wish.kind != "ratio" and wish.least == 1 and self._in_branch(group)
        return widths.allowed(group.size, self._step(group), wish.least, droppable)

    def paying(self, weight: str) -> int:
        """Return the step of the widths that pay, of a weight's own layer."""
        return widths.step(self._families[weight], self._threads) if self.wish.align else 1

    def _in_branch(self, group: Group) -> bool:
        """Whether a branch goes with a group: of two that meet in one sum, only the first."""
        layer = branch.end(group)
        found = None if layer is None else branch.joined(layer)
        if layer is None or found is None:
            return False
        return self._branches.setdefault(id(found[0]), layer.name) == layer.name

    def _step(self, group: Group) -> int:
        if not self.wish.align:
            return 1
        names = {member.constant.name for member in group.members}
        families = {self._families[name] for name in names if name in self._families}
        channels = max((m.columns.shape[1] for m in group.members), default=1)
        if not families or (channels > 1 and families == {"matmul"}):
            return 1  # whole heads, whatever their width
        step = max(widths.step(family, self._threads) for family in sorted(families))
        return step if self.wish.kind == "latency" else widths.fine(group.size, step)


def _family(layer: Linear) -> str:
    if layer.taps == 1 and layer.node.op != "Conv":
        return "matmul"
    return "depthwise" if layer.shape[0] > 1 else "conv"

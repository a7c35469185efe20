"""From chosen indices to a cut model that is fitted to the uncut one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.model import ir
from onnxopt.statistics import linear
from onnxopt.statistics.dependence import Dependence
from onnxopt.statistics.stages import DEPLOYED
from onnxopt_passes.prune import branch, cells
from onnxopt_passes.prune.compensate import compensate, twins
from onnxopt_passes.prune.consumers import absorb_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.statistics.layer import Linear
    from onnxopt_passes.prune.cells import Cell
    from onnxopt_passes.prune.collect import Read
    from onnxopt_passes.prune.groups import Group
    from onnxopt_passes.prune.least_squares import Fit


@dataclass(frozen=True)
class _Made:
    """What became of a layer by the loss of some inputs."""

    gone: np.ndarray
    matrix: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Workshop:
    """All that it takes to make cut models of one source.

    Attributes:
        source: The uncut model; never changed.
        groups: Its groups.
        reads: What its layers read, by name (`collect`); empty without calibration data.
        cut: `(model, keeps)` -> a new model without the indices that do not stay. `keeps` says
            by the name of a group which indices do, ascending; groups without an entry stay whole.
            Names of nodes and of weights do not change.
        seed: Draws rows.
        settings: How models are loaded.
        cells: What its recurrent cells read, by the names of their weights.
    """

    source: Model
    groups: Sequence[Group]
    reads: Mapping[str, Read]
    cut: Callable[[Model, Mapping[str, np.ndarray]], Model]
    seed: int = 0
    settings: Settings = DEPLOYED
    cells: Mapping[str, Cell] = field(default_factory=dict)
    _layers: dict[str, Linear] = field(default_factory=dict)
    _made: dict[str, _Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._layers.update((x.name, x) for x in linear.find_all(self.source.graph))

    def dropped(self, keeps: Mapping[str, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
        """Return which positions go, (weight's name, axis) -> bool for each position."""
        found: dict[tuple[str, int], np.ndarray] = {}
        for group in self.groups:
            if group.name not in keeps:
                continue
            gone = np.delete(np.arange(group.size), keeps[group.name])
            for member in group.members:
                key = (member.constant.name, member.axis)
                mask = found.setdefault(key, np.zeros(member.constant.shape[member.axis], bool))
                mask[member.columns[gone].reshape(-1)] = True
        return found

    def absorbed(self, keeps: Mapping[str, np.ndarray]) -> Model:
        """Return the cut model, its consumers making up for what they lost, unchanged inputs given.

        Consumers without moments lose their columns and are otherwise left as they are.
        """
        dropped = self.dropped(keeps)
        full = self.source.clone()
        for layer in linear.find_all(full.graph):
            gone = dropped.get((layer.weight.name, layer.input_axis))
            read = self.reads.get(layer.name)
            if gone is not None and gone.any() and read is not None:
                self._absorb(replace(read, layer=layer), gone)
        cells.absorbed(full.graph, self.cells, dropped)
        return self.cut(full, keeps)

    def _absorb(self, read: Read, gone: np.ndarray) -> None:
        """Absorb a cut; the last one of each layer is remembered, many cuts differ in others."""
        layer = read.layer
        known = self._made.get(layer.name)
        if known is not None and np.array_equal(known.gone, gone):
            layer.write(known.matrix, known.offsets if layer.biased else None)
            return
        absorb_cut(read, gone)
        self._made[layer.name] = _Made(gone, layer.matrix().astype(np.float32), layer.offsets())

    def _left(self, student: Model, keeps: Mapping[str, np.ndarray]) -> list[gs.Node]:
        """Return the sums in a cut model that lost a whole branch, and what reads them."""
        gone = [g for g in self.groups if g.name in keeps and not len(keeps[g.name])]
        sums = [branch.joined(layer) for g in gone if (layer := branch.end(g)) is not None]
        names = {
            ir.label(n) for s in sums if s is not None for n in (s[0], *s[0].outputs[0].outputs)
        }
        return [node for node in student.graph.nodes if ir.label(node) in names]

    def fit(
        self,
        student: Model,
        keeps: Mapping[str, np.ndarray],
        feeds: Callable[[], Iterable[Mapping[str, Any]]],
        count: int,
    ) -> dict[str, Fit]:
        """Fit all layers of a cut model that the cut reaches, in place.

        Returns:
            What came out, by layer.

        Raises:
            CannotRun: A model cannot be run in parts.
        """
        dropped = self.dropped(keeps)
        kept = {}
        for name, layer in self._layers.items():
            gone = dropped.get((layer.weight.name, layer.output_axis))
            if gone is not None:
                kept[name] = np.flatnonzero(~gone)
        ours = linear.find_all(student.graph)
        starts = [x.node for x in ours if (x.weight.name, x.input_axis) in dropped]
        starts += self._left(student, keeps)
        dependence = Dependence(starts)
        cut = {id(node) for node in starts}
        changed = [
            twin
            for twin in twins(list(self._layers.values()), ours, kept)
            if id(twin.student.node) in cut or dependence.of(twin.student.source)
        ]
        return compensate(self.source, student, changed, feeds, count, self.seed, self.settings)

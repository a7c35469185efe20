"""Sequential compensation: each layer of the cut model is fitted to what the uncut one computes.

Layers are fitted in the order of the data flow, each to the inputs that the layers before leave
it with after their own fit. Where the output of a layer is added to a shortcut, the target is the
uncut model's sum less the cut model's shortcut: so a residual branch mends what the layers before
it, in other branches, have left. What an activation behind hides is not fitted (`clamped`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.model.layout import in_order
from onnxopt.statistics.dependence import Dependence
from onnxopt.statistics.grams import Moments, merged
from onnxopt.statistics.stacks import stacked, together
from onnxopt.statistics.stages import DEPLOYED, Stages
from onnxopt_passes.prune.clamped import Rows, after, refine, spacing
from onnxopt_passes.prune.collect import held, rows_a_sample
from onnxopt_passes.prune.least_squares import Fit, refit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.statistics.layer import Linear
    from onnxopt.statistics.stacks import Stack
    from onnxopt_passes.prune.clamped import Clamp

LARGEST = 4608
"""Columns of the widest layer that is fitted: its matrices take half a gigabyte."""


IN_MEMORY = 1 << 25
"""Bytes between two stages of each model that are kept in memory."""


@dataclass(frozen=True)
class Twin:
    """A layer of the cut model, and the one it came from.

    Attributes:
        student: The layer of the cut model; its weight is the prior of the fit.
        teacher: The layer of the uncut model.
        kept: Which outputs of the teacher's layer the student's still has, in its order; None for
            all.
    """

    student: Linear
    teacher: Linear
    kept: np.ndarray | None = None


def twins(
    teacher: Sequence[Linear], student: Sequence[Linear], kept: Mapping[str, np.ndarray]
) -> list[Twin]:
    """Return the layers of a cut model that its uncut one has too, by their names.

    Args:
        teacher: Layers of the uncut model.
        student: Layers of the cut model.
        kept: Which outputs stayed, of layers that lost some, by name. Where they are not given, a
            layer that lost outputs is left out.
    """
    by_name = {layer.name: layer for layer in teacher}
    found = []
    for layer in student:
        origin = by_name.get(layer.name)
        if origin is None:
            continue
        index = kept.get(layer.name)
        groups, outputs, _ = layer.shape
        theirs = origin.shape[0] * origin.shape[1] if index is None else len(index)
        if groups * outputs == theirs:
            found.append(Twin(layer, origin, index))
    return found


@dataclass(frozen=True)
class Target:
    """What a layer is fitted to: `tensor` of the teacher, less `shortcut` of the student.

    Attributes:
        tensor: The output of the teacher's layer, or the sum that it goes into.
        shortcut: The other term of that sum in the student; None without a sum.
        clamp: Where what reads the tensor is flat; None where all of it counts.
    """

    tensor: gs.Tensor
    shortcut: gs.Tensor | None = None
    clamp: Clamp | None = None


def compensate(
    teacher: Model,
    student: Model,
    twins: Sequence[Twin],
    feeds: Callable[[], Iterable[Mapping[str, Any]]],
    count: int,
    seed: int = 0,
    settings: Settings = DEPLOYED,
) -> dict[str, Fit]:
    """Fit layers of a cut model in place, each to what the uncut model computes there.

    Args:
        teacher: The uncut model.
        student: The cut model; weights and biases of the layers change.
        twins: The layers to fit; those with more than `LARGEST` columns are left as they are.
        feeds: Starts a pass over the samples' inputs.
        count: How many samples there are.
        seed: Draws the rows.
        settings: How models are loaded.

    Returns:
        The fit of each layer by its name; one that was refused has no `ridge`.

    Raises:
        CannotRun: A model cannot be run in parts.
    """
    twins = [twin for twin in twins if twin.student.shape[2] <= LARGEST]
    stages = _schedule(student.graph, twins)
    wanted = [[target.tensor for _, target in stage] for stage in stages]
    most = together(teacher, wanted, feeds(), settings)
    stacks = [replace(stack, feed={}) for stack in stacked(feeds(), most, held)]

    def inputs() -> Iterator[Mapping[str, Any]]:
        return (stack.feed for stack in stacked(feeds(), most, held))

    read = [[t for twin, target in stage for t in _read(twin, target)] for stage in stages]
    ours = Stages(student, read, inputs(), settings, IN_MEMORY)
    theirs = Stages(teacher, wanted, inputs(), settings, IN_MEMORY)
    fits: dict[str, Fit] = {}
    for number, stage in enumerate(stages):
        collectors = [
            _Collector(twin, target, count, (seed, number, i), len(stage), settings.threads)
            for i, (twin, target) in enumerate(stage)
        ]
        for n, (stack, mine, made) in enumerate(zip(stacks, ours.run(), theirs.run(), strict=True)):
            values = iter(mine)
            for collector, y in zip(collectors, made, strict=True):
                collector.add(n, stack, values, y)
        for collector in collectors:
            fits[collector.twin.student.name] = collector.fit()
    return fits


def _read(twin: Twin, target: Target) -> list[gs.Tensor]:
    shortcut = [] if target.shortcut is None else [target.shortcut]
    return [twin.student.source, *shortcut]


class _Collector:
    """The moments of one layer, those of the fit and those held out."""

    def __init__(
        self,
        twin: Twin,
        target: Target,
        count: int,
        seed: tuple[int, ...],
        many: int,
        threads: int,
    ) -> None:
        self.twin, self._target, self._seed = twin, target, seed
        groups, outputs, inputs = twin.student.shape
        self._most = rows_a_sample(twin.student, count)
        self._parts = [Moments(groups, inputs, outputs, threads) for _ in range(2)]
        self._clamp = target.clamp if twin.student.biased else None
        width = groups * (inputs + 2 * outputs)
        self._some = Rows(spacing(count * self._most, width, many))

    def add(self, n: int, stack: Stack, values: Iterator[np.ndarray], y: np.ndarray) -> None:
        """Add rows of some samples.

        Args:
            n: Draws the rows.
            stack: The samples.
            values: The layer's input, then the shortcut if there is one.
            y: The target's tensor.
        """
        layer, x = self.twin.student, next(values)
        if self.twin.kept is not None:
            y = np.take(y, self.twin.kept, axis=layer.channel_axis(y.ndim))
        picks = layer.pick(x.shape, self._most * stack.count, (*self._seed, n))
        rows, wanted = layer.rows(x, picks), layer.targets(y, picks)
        rest = np.zeros_like(wanted)
        if self._target.shortcut is not None:
            rest = layer.targets(next(values), picks)
            wanted = wanted - rest
        self._parts[stack.held].add(rows, wanted)
        if self._clamp is not None:
            self._some.add(stack.held, rows, wanted, rest)

    def fit(self) -> Fit:
        """Fit the layer, and write what was found unless it is worse."""
        layer = self.twin.student
        matrix = layer.matrix()
        offsets = layer.offsets().reshape(matrix.shape[:2])
        try:
            fitted, held_out = (part.statistics() for part in self._parts)
        except ValueError:
            return Fit(matrix, offsets, np.inf, np.inf, None)
        found = refit(fitted, held_out, matrix, offsets, layer.biased)
        if found.ridge is not None and self._clamp is not None:
            found = refine(found, merged([fitted, held_out]), matrix, self._clamp, self._some)
        if found.ridge is not None:
            layer.write(found.matrix, found.offsets.reshape(-1) if layer.biased else None)
        return found


def _schedule(graph: gs.Graph, twins: Sequence[Twin]) -> list[list[tuple[Twin, Target]]]:
    """Return which layers are fitted together: none of a stage depends on another of it."""
    match.stamp(graph)
    by_node = {id(twin.student.node): twin for twin in twins}
    above = Dependence(twin.student.node for twin in twins)
    level: dict[int, int] = {}
    stages: list[list[tuple[Twin, Target]]] = []
    for node in in_order(graph):
        twin = by_node.get(id(node))
        if twin is None:
            continue
        before = above.of(twin.student.source)
        target, also = _target(graph, twin, above, level)
        number = max((level[key] + 1 for key in before | also), default=0)
        level[id(node)] = number
        stages.extend([] for _ in range(len(stages), number + 1))
        stages[number].append((twin, target))
    return stages


def _target(
    graph: gs.Graph, twin: Twin, above: Dependence, level: Mapping[int, int]
) -> tuple[Target, frozenset[int]]:
    """Return what a layer is fitted to, and the fitted layers that its shortcut depends on."""
    plain = Target(twin.teacher.output, None, after(twin.student.output)), frozenset[int]()
    ours, theirs = (
        match.sole_reader(layer.node.owner, layer.output, "Add", "Sum")  # type: ignore[attr-defined]
        for layer in (twin.student, twin.teacher)
    )
    if ours is None or theirs is None or len(ours.inputs) != 2 or len(theirs.inputs) != 2:
        return plain
    shortcut = next((t for t in ours.inputs if t is not twin.student.output), None)
    if shortcut is None or match.constant(shortcut) is not None:
        return plain
    before = above.of(shortcut)
    if not before <= level.keys():
        return plain  # it waits for a layer that is fitted later, perhaps for this one
    return Target(theirs.outputs[0], shortcut, after(ours.outputs[0])), before

"""Samples that run together: stacked along the first axis, where a model computes each by itself.

A small model spends more time between its nodes than in them, and sums over its tensors are made of
many small arrays. Sixteen samples at once take a fraction of the time of sixteen runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.runtime import CannotRun
from onnxopt.statistics.stages import DEPLOYED, Stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.runtime import Settings

    Feed = Mapping[str, Any]

MOST = 16
"""Samples of a stack, at most."""

ROOM = 1 << 24
"""Bytes that the tensors that are read at once may take."""

NEAR = 1e-3
"""Difference that is rounding, as a share of a tensor's largest value: kernels add up in an order
that depends on the sizes."""


@dataclass(frozen=True)
class Stack:
    """Samples that are run as one.

    Attributes:
        feed: Their inputs by name, stacked.
        count: How many they are.
        held: Whether they are held out, all of them.
    """

    feed: Feed
    count: int
    held: bool


def stacked(
    feeds: Iterable[Feed], most: int, held: Callable[[int], bool] = lambda _: False
) -> Iterator[Stack]:
    """Yield all samples in stacks, those that are held out apart from the others.

    Args:
        feeds: Inputs by name, a sample each. Only those of equal types and shapes are stacked.
        most: Samples of a stack, at most, as `together` returns it.
        held: Whether a sample is held out, by its number.
    """
    waiting: dict[bool, list[Feed]] = {False: [], True: []}
    for number, feed in enumerate(feeds):
        apart = held(number)
        group = waiting[apart]
        if group and _kinds(group[0]) != _kinds(feed):
            yield _stack(group, apart)
        group.append(feed)
        if len(group) >= most:
            yield _stack(group, apart)
    for apart, group in waiting.items():
        if group:
            yield _stack(group, apart)


def together(
    model: Model,
    wanted: Sequence[Sequence[gs.Tensor]],
    feeds: Iterable[Feed],
    settings: Settings = DEPLOYED,
) -> int:
    """Return how many samples may be stacked; 1 where a model does not compute each by itself.

    The first two samples are run one by one and as a stack: each tensor of the stack has to be
    those of the two, one behind the other.

    Args:
        model: The model.
        wanted: What will be read of it, by stage.
        feeds: Inputs by name, a sample each; at most two are read.
        settings: How it is loaded.
    """
    pair = list(islice(feeds, 2))
    if len(pair) < 2 or _kinds(pair[0]) != _kinds(pair[1]) or not _stackable(pair[0]):
        return 1
    tensors = [t for stage in wanted for t in stage]
    try:
        (first,) = Stages(model, [tensors], pair[:1], settings).run()
        sizes = [value.nbytes for value in first]
        del first
        each = iter(sizes)
        largest = max((sum(islice(each, len(stage))) for stage in wanted), default=0)
        most = min(MOST, ROOM // max(largest, 1))
        parts = _parts(tensors, sizes)
        stages = Stages(model, parts, [*pair, _stack(list(pair), held=False).feed], settings)
        if most > 1 and all(all(map(_behind, *stages.run())) for _ in parts):
            return most
    except CannotRun:
        pass
    return 1


def _parts(tensors: Sequence[gs.Tensor], sizes: Sequence[int]) -> list[list[gs.Tensor]]:
    """Return tensors in parts, in order, of which four samples' take `ROOM` together, about."""
    parts: list[list[gs.Tensor]] = []
    room = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        if not parts or size > room:
            parts.append([])
            room = ROOM // 4
        parts[-1].append(tensor)
        room -= size
    return parts


def _stackable(feed: Feed) -> bool:
    return bool(feed) and all(isinstance(v, np.ndarray) and v.ndim > 0 for v in feed.values())


def _kinds(feed: Feed) -> dict[str, tuple[Any, ...]]:
    return {k: (np.shape(v), getattr(v, "dtype", type(v))) for k, v in feed.items()}


def _stack(group: list[Feed], held: bool) -> Stack:
    """Return some samples as one, and forget them."""
    first, *others = group
    count = len(group)
    feed = first
    if others:
        feed = {name: np.concatenate([f[name] for f in group]) for name in first}
    group.clear()
    return Stack(feed, count, held)


def _behind(first: np.ndarray, second: np.ndarray, both: np.ndarray) -> bool:
    """Whether a tensor is two others, one behind the other, up to rounding."""
    if first.ndim == 0 or first.shape[1:] != second.shape[1:] or both.dtype != first.dtype:
        return False
    wanted = np.concatenate([first, second])
    if both.shape != wanted.shape or both.dtype.kind not in "biuf":
        return False
    room = NEAR * np.abs(wanted.astype(np.float64)).max(initial=0.0)
    return bool(np.all(np.abs(both.astype(np.float64) - wanted) <= room))  # false where not finite

"""What layers read, handed sample by sample to what sums it up, in bounded memory.

The model is run in stages, each with as many layers as fit into a share of the model's own memory,
whatever the number of samples and layers. Layers that read the same rows are served together.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from onnxopt.model.layout import in_order
from onnxopt.statistics import Stages, ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt.samples import Samples
    from onnxopt.statistics import Linear

ROOM = 1 << 22
"""Bytes of sums, and of what layers read, that a stage may hold, at least."""

SHARE = 0.25
"""The same as a part of the bytes of the model."""


class Sums(Protocol):
    """Takes in values of one tensor."""

    def add(self, value: np.ndarray, seed: Sequence[int]) -> None:
        """Take in one sample; the seed, its own, draws rows."""


Kind = TypeVar("Kind", bound=Sums)


@dataclass(frozen=True)
class Reader(Generic[Kind]):
    """Layers that read the same rows, and what sums these up.

    Attributes:
        layers: The layers, at least one.
        nbytes: Bytes that the sums take.
        make: Makes them.
    """

    layers: Sequence[Linear]
    nbytes: int
    make: Callable[[], Kind]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return str(self.layers[0].source.name)


def alike(model: Model, layers: Sequence[Linear]) -> list[list[Linear]]:
    """Return layers in the order in which they are computed, those together that read the same."""
    order = in_order(model.graph)
    place = {id(t): i for i, node in enumerate(order) for t in node.outputs}
    found: dict[object, list[Linear]] = {}
    for layer in sorted(layers, key=lambda x: place.get(id(x.source), -1)):
        found.setdefault((id(layer.source), layer.patches), []).append(layer)
    return list(found.values())


def run(
    model: Model,
    readers: Sequence[Reader[Kind]],
    samples: Samples,
    settings: Settings,
    seed: int = 0,
) -> Iterator[tuple[Reader[Kind], Kind]]:
    """Run samples through a model; yield each reader with its sums when all samples are in them.

    Args:
        model: The float model, stamped.
        readers: In the order of `alike`; what they read is computed from inputs.
        samples: What to run; nothing is yielded if there are none.
        settings: How to load it.
        seed: Draws the rows.

    Raises:
        CannotRun: onnxruntime cannot run the model.
    """
    first = next(iter(samples), None)
    if not readers or first is None:
        return
    names = list(dict.fromkeys(reader.name for reader in readers))
    sizes = ranges.sizes(model, names, first.feed, replace(settings, optimize=False))
    parts = list(_parts(readers, sizes, max(ROOM, int(SHARE * model.export().nbytes))))
    wanted = [[reader.layers[0].source for reader in part] for part in parts]
    stages = Stages(model, wanted, samples.feeds(), settings)
    for part in parts:
        sums = [reader.make() for reader in part]
        for number, values in enumerate(stages.run()):
            for reader, one in zip(part, sums, strict=True):
                own = zlib.crc32(reader.name.encode())  # the same whatever else is read
                one.add(values.pop(0), (seed, own, number))  # gone before the next sample is run
        for reader in part:
            yield reader, sums.pop(0)


def _parts(
    readers: Sequence[Reader[Kind]], sizes: Mapping[str, int], most: int
) -> Iterator[list[Reader[Kind]]]:
    """Yield readers in parts whose sums and tensors fit into so many bytes together."""
    part: list[Reader[Kind]] = []
    seen: set[str] = set()
    room = most
    for reader in readers:
        size = reader.nbytes + (0 if reader.name in seen else 4 * sizes[reader.name])
        if part and size > room:
            yield part
            part, room, seen = [], most, set()
        part.append(reader)
        room -= size
        seen.add(reader.name)
    if part:
        yield part

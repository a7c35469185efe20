"""Small constants that rules made, one for all that are equal.

Rules make the constants that they need, the same ones at each place. Put together they take less
room, and a second run of `clean` finds nothing left to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxopt import match, rewrite, shapes
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from onnxopt.model import Model


def names(model: Model) -> frozenset[str]:
    """Return the names of the constants that nodes read."""
    return frozenset(c.name for _, graph in model.graphs() for c in _read(graph))


def share(model: Model, known: frozenset[str]) -> None:
    """Let nodes of one graph read one of equal small constants.

    Args:
        model: Edited.
        known: Names of constants that were there before, which stay.
    """
    with rewrite.editing(model):
        for _, graph in model.graphs():
            first: dict[Hashable, gs.Constant] = {}
            for constant in sorted(_read(graph), key=lambda c: c.name not in known):
                keeper = first.setdefault(_key(constant), constant)
                if keeper is not constant and constant.name not in known:
                    match.replace(constant, keeper)


def _read(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Yield the small constants that nodes of a graph read, each once."""
    seen: set[int] = set()
    for node in graph.nodes:
        for tensor in node.inputs:
            if not isinstance(tensor, gs.Constant) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            size = shapes.nbytes(tensor)
            if size is not None and size <= scalars.SHARED and match.constant(tensor) is not None:
                yield tensor


def _key(constant: gs.Constant) -> Hashable:
    values = constant.values
    return str(values.dtype), values.shape, values.tobytes()

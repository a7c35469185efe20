"""A tap: a model that also gives out what tensors inside it hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from onnxopt import match
from onnxopt.model import Exported
from onnxopt.runtime import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import onnx_graphsurgeon as gs

    from onnxopt.model import Model
    from onnxopt.samples import Samples

WRITTEN = Settings()
"""ORT_DISABLE_ALL, so that tensors mean what is written."""


class Tap:
    """A model loaded so that tensors of its main graph can be read.

    A caller that wants sums over a tensor rather than its values (a Gram matrix, a histogram)
    puts the nodes that compute them into a clone of the model, and taps their outputs: then
    onnxruntime does the work, and the large tensor never leaves it.

    Args:
        model: Not changed.
        tensors: What to read, of the main graph: inputs, constants, or outputs of nodes.
        settings: How to load it.

    Raises:
        CannotRun: onnxruntime refuses the model.
    """

    def __init__(
        self, model: Model, tensors: Sequence[gs.Tensor], settings: Settings = WRITTEN
    ) -> None:
        exported, names = model.export_named()
        proto = onnx.ModelProto()
        proto.CopyFrom(exported.proto)
        self._constants = {id(t): v for t in tensors if (v := match.constant(t)) is not None}
        self._keys = [
            id(t) if id(t) in self._constants else names.get(id(t), t.name) for t in tensors
        ]
        held = {v.name for v in (*proto.graph.output, *proto.graph.input)}
        for key in dict.fromkeys(k for k in self._keys if isinstance(k, str)):
            if key not in held:
                proto.graph.output.append(onnx.ValueInfoProto(name=key))
        self._session = Session(Exported(proto, exported.weights), settings)

    def __call__(self, feed: Mapping[str, Any]) -> list[np.ndarray]:
        """Return the values of the tensors on one set of inputs, in the order they were given.

        Raises:
            CannotRun: The run fails.
        """
        found: dict[Any, Any] = {**feed, **self._session.run(feed), **self._constants}
        return [found[key] for key in self._keys]

    def over(self, samples: Samples | Iterable[Any]) -> Iterator[list[np.ndarray]]:
        """Yield the values on each sample, one sample at a time."""
        for sample in samples:
            yield self(sample.feed)

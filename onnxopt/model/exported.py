"""A model as messages: what is checked, run, compared and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxopt.errors import ModelError
from onnxopt.model import files
from onnxopt.model.interface import OVERRIDABLE_IR, Port, ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxopt.model.tensors import Stored


class Exported:
    """A model as messages: what is checked, run, compared and written.

    Attributes:
        proto: The model; large initializers of the main graph are external tensors.
        weights: Their bytes, by name.
    """

    def __init__(self, proto: onnx.ModelProto, weights: Mapping[str, Stored]) -> None:
        self.proto = proto
        self.weights = dict(weights)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What callers feed; initializers before IR version 4 are not among it."""
        graph = self.proto.graph
        held = frozenset(t.name for t in graph.initializer)
        values = list(graph.input)
        if self.proto.ir_version < OVERRIDABLE_IR:
            values = [v for v in values if v.name not in held]
        return ports(values, held)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What callers fetch."""
        return ports(self.proto.graph.output)

    @property
    def nbytes(self) -> int:
        """Bytes of the file that this becomes, to a few."""
        return int(self.proto.ByteSize()) + sum(w.nbytes for w in self.weights.values())

    def whole(self) -> onnx.ModelProto:
        """Return one message with all weights in it.

        Raises:
            ModelError: It would be larger than the 2 GiB that protobuf allows.
        """
        if self.nbytes > files.LIMIT:
            raise ModelError("a message cannot hold more than 2 GiB: save the model to a file")
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = self.weights[tensor.name].raw.tobytes()
        return proto

"""A model: the graph that passes edit, and the header that carries what a graph cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnxopt.errors import ModelError
from onnxopt.model import files, ir
from onnxopt.model.exported import Exported
from onnxopt.model.exporter import Exporter
from onnxopt.model.importer import Importer
from onnxopt.model.interface import OVERRIDABLE_IR

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt.model.tensors import Stored


class Model:
    """An ONNX model that passes can edit.

    Attributes:
        graph: The main graph; `graph.functions` are the model-local functions. Weights are shared
            between clones: never write into `Constant.values`, assign a new array.
        header: All of the `ModelProto` but graph and functions. Only this module edits it.
        path: The file it came from, None if it came from memory.
    """

    def __init__(self, graph: gs.Graph, header: onnx.ModelProto, path: Path | None = None) -> None:
        self.graph = graph
        self.header = header
        self.path = path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read a model file; weights stay in the file, mapped, until they are looked at.

        Raises:
            ModelError: It is no ONNX model, is damaged, or refers to data outside its folder.
        """
        path = Path(path)
        proto, weights = files.read(path)
        try:
            return cls._build(proto, weights, path)
        except RecursionError as e:
            raise ModelError(f"{path}: subgraphs are nested too deep") from e
        except ModelError as e:
            raise ModelError(f"{path}: {e}") from e

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto) -> Model:
        """Take a model from memory. The message is not changed, nor kept.

        Raises:
            ModelError: It is not valid, or its data are in external files.
        """
        return cls._build(proto, {}, None)

    @classmethod
    def from_exported(cls, exported: Exported, path: Path | None = None) -> Model:
        """Build a new graph from what another one was exported to; weights are shared."""
        return cls._build(exported.proto, exported.weights, path)

    @classmethod
    def _build(
        cls, proto: onnx.ModelProto, weights: Mapping[str, Stored], path: Path | None
    ) -> Model:
        external = files.External(path.parent if path else None)

        def resolve(tensor: onnx.TensorProto) -> Stored:
            return weights[tensor.name] if tensor.name in weights else external(tensor)

        opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
        overridable = proto.ir_version >= OVERRIDABLE_IR
        graph = Importer(opsets, resolve, overridable).model(proto)
        header = onnx.ModelProto()
        for field, value in proto.ListFields():
            if field.name in ("graph", "functions"):
                continue
            if hasattr(value, "MergeFrom"):
                getattr(header, field.name).MergeFrom(value)
            else:
                setattr(header, field.name, value)
        return cls(graph, header, path)

    def export(self) -> Exported:
        """Return the model as messages, its large weights beside them.

        Raises:
            ModelError: The graph has a cycle, or reads what nothing produces.
        """
        return self.export_named()[0]

    def export_named(self) -> tuple[Exported, dict[int, str]]:
        """Return the model as messages, and the names that its tensors have there, by their id.

        Raises:
            ModelError: The graph has a cycle, or reads what nothing produces.
        """
        exporter = Exporter()
        try:
            proto = exporter.model(self.graph, self.header)
        except ModelError as e:
            raise ModelError(f"{self.path}: {e}" if self.path else str(e)) from e
        return Exported(proto, exporter.weights), exporter.names.given

    def to_proto(self) -> onnx.ModelProto:
        """Return the model as one message.

        Raises:
            ModelError: It is larger than 2 GiB.
        """
        return self.export().whole()

    def save(self, path: str | os.PathLike[str], *, external_data: bool = False) -> None:
        """Write the model; the file is replaced whole or not at all.

        Args:
            path: The file to write; may be the one it was loaded from.
            external_data: Keep large weights in one file beside it. Over 2 GiB always so.

        Raises:
            OutputError: It cannot be written there.
        """
        exported = self.export()
        files.write(Path(path), exported.proto, exported.weights, external_data)

    def clone(self) -> Model:
        """Return an independent copy that shares the weights."""
        return Model.from_exported(self.export(), self.path)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.graph.opset

    @opset.setter
    def opset(self, version: int) -> None:
        for entry in self.header.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = version
                break
        else:
            self.header.opset_import.add(domain="", version=version)
        for _, graph in ir.nested(self.graph):
            graph.opset = version

    def graphs(self) -> Iterator[tuple[str, gs.Graph]]:
        """Yield all graphs with their paths: the main one, its subgraphs, then the functions'."""
        yield from ir.nested(self.graph)
        for function in self.graph.functions:
            yield from ir.nested(function, f"{function.domain}::{function.name}/")

"""Loading then saving loses nothing: not on any model that the onnx wheel holds or generates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from corpus import FILES, node_cases

from onnxopt.model import Model

if TYPE_CHECKING:
    from pathlib import Path


def canonical(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Order what has no order: initializers, types, annotations, metadata, opset imports."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _sort(copy.opset_import, "domain")
    _sort(copy.metadata_props, "key")
    graphs = [copy.graph]
    for function in copy.functions:
        _nodes(function.node, graphs)
    while graphs:
        graph = graphs.pop()
        _sort(graph.initializer, "name")
        _sort(graph.value_info, "name")
        for value in (*graph.value_info, *graph.input, *graph.output):
            if not value.type.ListFields():
                value.ClearField("type")
        _nodes(graph.node, graphs)
        _clear_empty(graph, "doc_string", "name")
    return copy


def _nodes(nodes, graphs: list[onnx.GraphProto]) -> None:
    for node in nodes:
        _sort(node.attribute, "name")
        for a in node.attribute:
            graphs += [a.g] if a.HasField("g") else []
            graphs.extend(a.graphs)
        _clear_empty(node, "domain", "name")


def _clear_empty(message, *fields: str) -> None:
    """Drop empty texts: they are the same as none."""
    for field in fields:
        if not getattr(message, field):
            message.ClearField(field)


def _sort(repeated, key: str) -> None:
    items = sorted(
        (type(x).FromString(x.SerializeToString()) for x in repeated), key=lambda x: getattr(x, key)
    )
    del repeated[:]
    repeated.extend(items)


def assert_same(got: onnx.ModelProto, want: onnx.ModelProto) -> None:
    a, b = canonical(got), canonical(want)
    assert a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True), (
        a,
        b,
    )


def test_every_generated_node_test() -> None:
    cases = node_cases()
    assert len(cases) > 1500
    lost = []
    for case in cases:
        want = canonical(case.model).SerializeToString(deterministic=True)
        got = canonical(Model.from_proto(case.model).to_proto())
        if got.SerializeToString(deterministic=True) != want:
            lost.append(case.name)
    assert lost == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-3:]))
def test_every_file_of_the_wheel(path: Path, tmp_path: Path) -> None:
    Model.load(path).save(tmp_path / "copy.onnx")
    assert_same(onnx.load(tmp_path / "copy.onnx"), onnx.load(path))

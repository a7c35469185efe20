"""Whatever a stranger feeds in: one line, exit code 2, nothing written, no traceback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt.check import Settings, check
from onnxopt.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,8] y)
{
  t = Relu(x)
  y = Sigmoid(t)
}
"""


def good() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(GOOD)
    weight = np.arange(4096, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


def refuse(path: Path, match: str) -> None:
    """Assert one line that names the trouble, and that nothing was left behind."""
    before = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(InputError, match=match) as caught:
        onnxopt.optimize(path, "square", output=path.parent / "out.onnx", timing=False)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert sorted(p.name for p in path.parent.iterdir()) == before


def write(path: Path, proto: onnx.ModelProto | bytes) -> Path:
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_missing_file(file: Path) -> None:
    refuse(file, "does not exist")


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "is a directory")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    refuse(tmp_path / "pipe.onnx", "no regular file")
    (found,) = check(tmp_path / "pipe.onnx", Settings())
    assert "no regular file" in found.message


def test_empty_file(file: Path) -> None:
    refuse(write(file, b""), "is empty")


@pytest.mark.parametrize("size", [1, 7, 64, 5000])
def test_random_bytes(file: Path, size: int) -> None:
    refuse(write(file, np.random.default_rng(size).bytes(size)), "not an ONNX model")


def test_text(file: Path) -> None:
    refuse(write(file, b"import torch\nprint('hello')\n" * 20), "not an ONNX model")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_truncated(file: Path, share: float) -> None:
    data = good().SerializeToString()
    refuse(write(file, data[: int(len(data) * share)]), "not an ONNX model|damaged|not valid|needs")


def test_empty_graph(file: Path) -> None:
    proto = onnx.ModelProto(ir_version=8)
    proto.graph.name = "g"
    refuse(write(file, proto), "it has no outputs|no opset")
    proto.opset_import.add(version=17)
    refuse(write(file, proto), "it has no outputs")


def test_cycle(file: Path) -> None:
    proto = good()
    proto.graph.node[0].input[0] = "y"
    refuse(write(file, proto), "cycle through node")


@pytest.mark.parametrize("which", ["output", "initializer", "input"])
def test_duplicate_names(file: Path, which: str) -> None:
    proto = good()
    if which == "output":
        proto.graph.node.add(op_type="Relu", input=["x"], output=["t"])
    elif which == "initializer":
        proto.graph.initializer.append(proto.graph.initializer[0])
    else:
        proto.graph.input.append(proto.graph.input[0])
    refuse(write(file, proto), "twice|two initializers")


def test_dangling_name(file: Path) -> None:
    proto = good()
    proto.graph.node[0].input[0] = "nowhere"
    refuse(write(file, proto), "'nowhere' is used, but nothing produces it")


def test_unknown_operator_of_the_standard_domain(file: Path) -> None:
    proto = good()
    proto.graph.node[0].op_type = "Rleu"
    refuse(write(file, proto), "Rleu")


def test_wrong_size_of_raw_data(file: Path) -> None:
    proto = good()
    proto.graph.initializer[0].dims[0] = 5000
    refuse(write(file, proto), "needs 20000: the file is damaged")


def test_absurd_dims_of_an_initializer(file: Path) -> None:
    proto = good()
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    refuse(write(file, proto), "the file is damaged")


def test_negative_dims_of_an_initializer(file: Path) -> None:
    proto = good()
    proto.graph.initializer[0].dims[:] = [-4096, -1]
    refuse(write(file, proto), "the file is damaged")


def test_absurd_dims_of_an_input(file: Path) -> None:
    proto = good()
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    for dim in dims:
        dim.dim_value = 2**31
    for dim in proto.graph.output[0].type.tensor_type.shape.dim:
        dim.dim_value = 2**31
    refuse(write(file, proto), "'x' is larger than any memory")


def test_an_input_too_large_to_draw_is_passed_on(file: Path) -> None:
    proto = good()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = 2**16
    write(file, proto)
    result = onnxopt.optimize(file, "square", timing=False)
    assert result.report["proof"]["proven"] is False
    assert "x" in result.report["proof"]["reason"]


def external(location: str, offset: int = 0, length: int | None = None) -> onnx.ModelProto:
    proto = good()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value=str(offset))
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))
    return proto


def test_missing_external_data(file: Path) -> None:
    refuse(write(file, external("weights.bin")), "external data of 'w' are missing")


@pytest.mark.parametrize(("offset", "length"), [(0, 16384), (8000, 16384), (-4, 16384), (0, 2**60)])
def test_external_data_too_short(file: Path, offset: int, length: int) -> None:
    (file.parent / "weights.bin").write_bytes(bytes(10000))
    refuse(
        write(file, external("weights.bin", offset, length)), "external data of 'w' end at|needs"
    )


def test_external_data_of_wrong_length(file: Path) -> None:
    (file.parent / "weights.bin").write_bytes(bytes(20000))
    refuse(write(file, external("weights.bin", 0, 100)), "the file is damaged")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "C:\\weights.bin", ""]
)
def test_external_data_outside_the_folder(file: Path, location: str) -> None:
    (file.parent / "a").mkdir()
    refuse(write(file, external(location)), "outside the model's folder: refused")


def test_external_data_behind_a_link(file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights.bin"
    elsewhere.write_bytes(bytes(16384))
    os.symlink(elsewhere, file.parent / "weights.bin")
    refuse(write(file, external("weights.bin")), "outside the model's folder: refused")


def bomb(depth: int) -> onnx.ModelProto:
    """An If in an If in an If..."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["leaf"])],
        "leaf",
        [],
        [helper.make_tensor_value_info("leaf", TensorProto.FLOAT, None)],
    )
    for i in range(depth):
        name = f"t{i}"
        node = helper.make_node("If", ["c"], [name], then_branch=inner, else_branch=inner)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        inner = helper.make_graph([node], name, [], [output])
    inner.input.extend(
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ]
    )
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_subgraphs_nested_moderately_are_handled(file: Path) -> None:
    write(file, bomb(8))
    onnxopt.optimize(file, "square", output=file, timing=False)


def test_subgraphs_nested_deeper_than_any_parser_goes(file: Path) -> None:
    # Each level is a model of twice the size: built from bytes, a level at a time.
    graph = good().graph.SerializeToString()
    for _ in range(200):
        attribute = onnx.AttributeProto(name="then_branch", type=5).SerializeToString()
        attribute += b"\x32" + _length(graph) + graph  # field 6: g
        node = onnx.NodeProto(op_type="If", output=["y"]).SerializeToString()
        node += b"\x2a" + _length(attribute) + attribute  # field 5: attribute
        graph = b"\x0a" + _length(node) + node  # field 1: node
    model = onnx.ModelProto(ir_version=8).SerializeToString() + b"\x3a" + _length(graph) + graph
    refuse(write(file, model), "not an ONNX model|nested too deep|not valid")


def _length(data: bytes) -> bytes:
    from onnxopt.model.wire import encode

    return encode(len(data))


def test_output_folder_that_does_not_exist(file: Path) -> None:
    write(file, good())
    with pytest.raises(InputError, match="there is no folder"):
        onnxopt.optimize(file, "square", output=file.parent / "no" / "out.onnx")


def test_output_that_is_a_directory(file: Path) -> None:
    write(file, good())
    with pytest.raises(InputError, match="is a directory"):
        onnxopt.optimize(file, "square", output=file.parent)


def test_unknown_target(file: Path) -> None:
    write(file, good())
    with pytest.raises(InputError, match="target 'tpu' is unknown"):
        onnxopt.optimize(file, "square", target="tpu")

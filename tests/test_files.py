"""Model files: external data, atomic writes, and paths that are their own output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper
from test_model_roundtrip import assert_same

from onnxopt.errors import OutputError
from onnxopt.model import Model, files, wire

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,64] y) <float[64,64] w, float[64,64] v, float[4] small>
{
  a = MatMul(x, w)
  y = MatMul(a, v)
}
"""


def model(seed: int = 0) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(seed)
    for name, shape in (("w", (64, 64)), ("v", (64, 64)), ("small", (4,))):
        values = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    del proto.graph.value_info[:]
    return proto


def saved(path: Path, seed: int = 0, external: bool = False) -> Path:
    Model.from_proto(model(seed)).save(path, external_data=external)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_single_file(tmp_path: Path) -> None:
    assert_same(onnx.load(saved(tmp_path / "m.onnx")), model())
    assert names(tmp_path) == ["m.onnx"]


def test_external_data_is_one_file_that_onnx_reads(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", external=True)
    first, data = names(tmp_path)
    assert first == "m.onnx"
    assert files.DATA_SUFFIX.fullmatch(data.removeprefix("m.onnx"))
    onnx.checker.check_model(str(path), full_check=True)
    got = onnx.load(path)
    for tensor in got.graph.initializer:  # onnx leaves these entries behind when it loads data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert_same(got, model())
    assert_same(Model.load(path).to_proto(), model())


def test_a_new_model_takes_its_old_data_file_away(tmp_path: Path) -> None:
    saved(tmp_path / "m.onnx", 0, external=True)
    (tmp_path / "m.onnx.mine.data").write_text("not ours")
    saved(tmp_path / "m.onnx", 1, external=True)
    assert len(names(tmp_path)) == 3
    assert_same(Model.load(tmp_path / "m.onnx").to_proto(), model(1))
    saved(tmp_path / "m.onnx", 2)
    assert names(tmp_path) == ["m.onnx", "m.onnx.mine.data"]


def test_data_of_others_are_left_alone(tmp_path: Path) -> None:
    proto = model()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    Model.load(tmp_path / "m.onnx").save(tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx", "weights.bin"]
    assert_same(onnx.load(tmp_path / "m.onnx"), model())


@pytest.mark.parametrize("external", [False, True])
def test_a_model_may_be_saved_over_itself(tmp_path: Path, external: bool) -> None:
    path = saved(tmp_path / "m.onnx", external=external)
    Model.load(path).save(path, external_data=external)
    assert_same(Model.load(path).to_proto(), model())


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx")
    assert a.read_bytes() == b.read_bytes()


def test_mode_bits_follow_the_umask_or_the_old_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = saved(tmp_path / "m.onnx")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        saved(path, 1)
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(old)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("external", [False, True])
def test_a_failed_write_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, external: bool
) -> None:
    path = saved(tmp_path / "m.onnx", external=external)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        saved(path, 1, external)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


KILLED = """
import sys
from test_files import saved
from pathlib import Path
print("go", flush=True)
n = 0
while True:
    n += 1
    saved(Path(sys.argv[1]), n % 2, external=n % 3 == 0)
"""


def test_killed_at_any_moment_the_old_or_the_new_model_is_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    for i in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.011 * i)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = Model.load(path).to_proto()
        seeds = [numpy_helper.to_array(model(s).graph.initializer[0]) for s in (0, 1)]
        got = numpy_helper.to_array(found.graph.initializer[0])
        assert any(np.array_equal(got, s) for s in seeds)


def test_large_weights_stay_in_the_mapped_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    loaded = Model.load(path)
    (weight,) = (t for t in loaded.graph.initializers if t.name == "w")
    base = weight.values
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert "mmap" in type(base).__name__ or isinstance(base, memoryview)
    with pytest.raises(ValueError, match="read-only"):
        weight.values[0] = 1


def test_split_and_join_give_any_message_back(tmp_path: Path) -> None:
    data = model().SerializeToString()
    message, cut = wire.split(memoryview(data), 4096)
    assert len(cut) == 2
    stripped = onnx.ModelProto.FromString(message)
    assert [len(t.raw_data) for t in stripped.graph.initializer] == [0, 0, 16]
    for index, (start, stop) in cut.items():
        assert data[start:stop] == model().graph.initializer[index].raw_data


def test_typed_data_are_read(tmp_path: Path) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).reshape(-1)
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values.tolist())
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert_same(Model.load(path).to_proto(), proto)


def test_field_numbers_are_those_of_the_standard() -> None:
    numbers = {
        (TensorProto, "raw_data"): wire.TENSOR_RAW_DATA,
        (onnx.ModelProto, "graph"): wire.MODEL_GRAPH,
        (onnx.GraphProto, "initializer"): wire.GRAPH_INITIALIZER,
    }
    for (message, field), number in numbers.items():
        assert message.DESCRIPTOR.fields_by_name[field].number == number

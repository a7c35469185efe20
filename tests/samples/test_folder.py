from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import Preprocess, open_samples


def port(name, shape, dtype="float32", **more) -> Port:
    return Port(name, "tensor", np.dtype(dtype), shape, **more)


X = port("x", ("N", 3, "T"))


def test_a_file_a_sample_with_shapes_that_differ(tmp_path):
    shapes = [(1, 3, 5), (1, 3, 9), (3, 2), (4, 3, 2)]  # one lacks its batch axis, one is a batch
    for i, shape in enumerate(shapes):
        np.savez(tmp_path / f"{i}.npz", x=np.full(shape, i, np.float32), labels=np.asarray([i]))
    samples = open_samples(tmp_path, [X])
    assert (samples.count(), samples.labelled, samples.source) == (4, True, tmp_path.name)
    for _ in range(2):
        found = [(s.feed["x"].shape, s.label.shape, int(s.label)) for s in samples]
        assert found == [
            ((1, 3, 5), (), 0),
            ((1, 3, 9), (), 1),
            ((1, 3, 2), (), 2),
            ((4, 3, 2), (), 3),
        ]


def test_npy_files_for_a_model_with_one_input(tmp_path):
    np.save(tmp_path / "b.npy", np.zeros((1, 3, 2), np.float32))
    np.save(tmp_path / "a.npy", np.ones((1, 3, 1), np.float32))
    optional = port("w", (1,), required=False)
    feeds = list(open_samples(tmp_path, [optional, X]).feeds())
    assert [feed["x"].shape[2] for feed in feeds] == [1, 2]
    with pytest.raises(SamplesError, match=r"a\.npy feeds a model with one input"):
        open_samples(tmp_path, [X, port("y", (1,))])


def test_errors_name_number_and_file(tmp_path):
    np.savez(tmp_path / "0.npz", x=np.zeros((1, 3, 2), np.float32))
    np.savez(tmp_path / "1.npz", x=np.zeros((1, 3, 2), np.int16))
    samples = open_samples(tmp_path, [X])
    with pytest.raises(SamplesError, match=r"sample 1 \(1\.npz\): input 'x' is int16"):
        list(samples)


def test_labels_for_some_only(tmp_path):
    for i, label in enumerate([{"labels": np.asarray(1)}, {}]):
        np.savez(tmp_path / f"{i}.npz", x=np.zeros((1, 3, 2), np.float32), **label)
    with pytest.raises(SamplesError, match="sample 0 has a label, but sample 1 has none"):
        list(open_samples(tmp_path, [X]))


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_damaged_and_pickled_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(SamplesError, match=rf"{name}: cannot be read"):
        open_samples(tmp_path, [X])
    save = np.savez if name == "a.npz" else np.save
    save(tmp_path / name, np.asarray([{}], object))
    with pytest.raises(SamplesError, match=rf"{name}: holds Python objects"):
        open_samples(tmp_path, [X])


def test_empty_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SamplesError, match=r"holds no samples: put \.npz"):
        open_samples(tmp_path, [X])


def test_missing_and_unknown_paths(tmp_path):
    with pytest.raises(SamplesError, match="there is no such file or folder"):
        open_samples(tmp_path / "none.npz", [X])
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(SamplesError, match=r"a\.csv: is no source of samples"):
        open_samples(tmp_path / "a.csv", [X])


def test_preprocess_is_for_images(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 2), np.float32))
    for source in (tmp_path, tmp_path / "a.npy", []):
        with pytest.raises(SamplesError, match="--preprocess is for a folder of images"):
            open_samples(source, [X], preprocess=Preprocess())


def write(folder, index, proto):
    folder.mkdir(exist_ok=True)
    (folder / f"input_{index}.pb").write_bytes(proto.SerializeToString())


def test_test_data_sets_in_the_order_of_their_numbers(tmp_path):
    inputs = [X, port("t", ("N",), "object")]
    for i in (0, 2, 10):
        folder = tmp_path / f"test_data_set_{i}"
        write(folder, 0, numpy_helper.from_array(np.full((1, 3, 2), i, np.float32)))
        write(folder, 1, numpy_helper.from_array(np.asarray([f"t{i}"], object)))
        (folder / "output_0.pb").write_bytes(b"")
    feeds = list(open_samples(tmp_path, inputs).feeds())
    assert [feed["x"][0, 0, 0] for feed in feeds] == [0, 2, 10]
    assert [feed["t"].tolist() for feed in feeds] == [["t0"], ["t2"], ["t10"]]
    assert open_samples(tmp_path / "test_data_set_2", inputs).count() == 1


def test_test_data_of_other_kinds(tmp_path):
    folder = tmp_path / "test_data_set_0"
    arrays = [np.ones(2, np.float32), np.zeros(3, np.float32)]
    write(folder, 0, numpy_helper.from_list(arrays))
    write(folder, 1, numpy_helper.from_optional(arrays[0]))
    write(folder, 2, numpy_helper.from_dict({1: 2.0}))
    inputs = [Port(k, k, None, None) for k in ("sequence", "optional", "map")]
    (feed,) = open_samples(tmp_path, inputs).feeds()
    assert [x.tolist() for x in feed["sequence"]] == [[1, 1], [0, 0, 0]]
    assert feed["optional"].tolist() == [1, 1]
    assert {int(k): float(v) for k, v in feed["map"].items()} == {1: 2.0}
    with pytest.raises(SamplesError, match=r"input_0\.pb: input 's' is sparse"):
        open_samples(tmp_path, [Port("s", "sparse", None, None)])


def test_wrong_test_data(tmp_path):
    folder = tmp_path / "test_data_set_0"
    write(folder, 1, numpy_helper.from_array(np.zeros(1, np.float32)))
    with pytest.raises(SamplesError, match=r"input_1\.pb: the model has only 1 input"):
        open_samples(tmp_path, [X])
    with pytest.raises(SamplesError, match=r"sample 0 \(test_data_set_0\): input 'x' is missing"):
        open_samples(tmp_path, [X, port("y", (1,))])
    (folder / "input_0.pb").write_bytes(b"\xff\xff nonsense")
    with pytest.raises(SamplesError, match=r"input_0\.pb: cannot be read as x: float32"):
        open_samples(tmp_path, [X, port("y", (1,))])
    write(folder, 0, onnx.TensorProto())
    with pytest.raises(SamplesError, match=r"input_0\.pb: cannot be read as x: float32"):
        open_samples(tmp_path, [X, port("y", (1,))])

from __future__ import annotations

import gc
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import npz, open_samples
from onnxopt.samples.npz import Archive


def port(name, shape, dtype="float32", **more) -> Port:
    return Port(name, "tensor", np.dtype(dtype), shape, **more)


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def save(request):
    return request.param


def test_same_rank_keeps_the_first_axis(tmp_path, save):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    save(tmp_path / "calib.npz", x=x)
    samples = open_samples(tmp_path / "calib.npz", [port("x", ("N", 3))])
    assert (samples.source, samples.count(), samples.labelled) == ("calib.npz", 4, False)
    for _ in range(2):
        feeds = [feed["x"] for feed in samples.feeds()]
        assert [feed.shape for feed in feeds] == [(1, 3)] * 4
        np.testing.assert_array_equal(np.concatenate(feeds), x)


def test_one_axis_more_is_the_samples(tmp_path, save):
    """States, and a scalar that is stacked, as zoo.export writes them."""
    state = np.arange(24, dtype=np.float32).reshape(3, 2, 1, 4)
    save(tmp_path / "a.npz", state=state, sr=np.asarray([16000] * 3))
    inputs = [port("state", (2, None, 4)), port("sr", (), "int64")]
    feeds = list(open_samples(str(tmp_path / "a.npz"), inputs).feeds())
    assert len(feeds) == 3
    np.testing.assert_array_equal(feeds[1]["state"], state[1])
    assert feeds[1]["sr"].shape == ()
    assert feeds[1]["sr"] == 16000


@pytest.mark.parametrize(
    ("constant", "shape"),
    [(np.asarray(16000.0, np.float32), ()), (np.ones((2, 1, 4), np.float32), (2, "B", 4))],
)
def test_constants_serve_all_samples(constant, shape):
    arrays = {"x": np.zeros((5, 3), np.float32), "c": constant}
    samples = open_samples(arrays, [port("x", ("N", 3)), port("c", shape)])
    assert samples.count() == 5
    assert all(np.array_equal(feed["c"], constant) for feed in samples.feeds())


def test_only_constants_are_one_sample():
    inputs = [port("a", ()), port("b", (2, 3))]
    arrays = {"a": np.float32(1), "b": np.ones((2, 3), np.float32)}
    assert open_samples(arrays, inputs).count() == 1
    assert open_samples({"a": np.float32(1)}, inputs[:1]).count() == 1


def test_fixed_batch_takes_as_many_rows():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    arrays = {"x": x, "labels": np.arange(6)}
    samples = list(open_samples(arrays, [port("x", (2, 2))]))
    assert [s.feed["x"].tolist() for s in samples] == [x[i : i + 2].tolist() for i in (0, 2, 4)]
    assert [s.label.tolist() for s in samples] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(SamplesError, match="first axis must be a multiple of 2"):
        open_samples({"x": x[:5]}, [port("x", (2, 2))])


def test_labels(tmp_path, save):
    save(tmp_path / "a.npz", x=np.zeros((3, 2), np.float32), labels=np.asarray([4, 5, 6]))
    samples = open_samples(tmp_path / "a.npz", [port("x", ("N", 2))])
    assert samples.labelled
    assert [(s.label.shape, int(s.label)) for s in samples] == [((), 4), ((), 5), ((), 6)]


def test_an_input_called_labels_wins():
    arrays = {"x": np.zeros((3, 2), np.float32), "labels": np.asarray([4, 5, 6])}
    inputs = [port("x", ("N", 2)), port("labels", ("N",), "int64")]
    samples = open_samples(arrays, inputs)
    assert not samples.labelled
    assert next(samples.feeds())["labels"].tolist() == [4]


def test_unknown_rank_keeps_the_first_axis():
    samples = open_samples({"x": np.zeros((3, 2), np.float32)}, [port("x", None)])
    assert [feed["x"].shape for feed in samples.feeds()] == [(1, 2)] * 3


def test_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    assert open_samples(tmp_path / "x.npy", [port("x", ("N", 2))]).count() == 3
    with pytest.raises(SamplesError, match=r"this one has 2 \(x, y\)"):
        open_samples(tmp_path / "x.npy", [port("x", ("N", 2)), port("y", ("N", 2))])


def test_text_bool_and_bfloat16_survive(tmp_path, save):
    half = np.asarray([[1.0], [2.5]]).astype(ml_dtypes.bfloat16)
    save(tmp_path / "a.npz", t=np.asarray([["a"], ["bc"]]), b=np.asarray([[True], [False]]), h=half)
    inputs = [
        port("t", ("N", 1), "object"),
        port("b", ("N", 1), "bool"),
        port("h", ("N", 1), ml_dtypes.bfloat16),
    ]
    last = list(open_samples(tmp_path / "a.npz", inputs).feeds())[1]
    assert (last["t"][0, 0], last["b"][0, 0], float(last["h"][0, 0])) == ("bc", False, 2.5)


def test_fortran_order(tmp_path, save):
    x = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    save(tmp_path / "a.npz", x=x)
    feeds = list(open_samples(tmp_path / "a.npz", [port("x", ("N", 2))]).feeds())
    assert [feed["x"][0].tolist() for feed in feeds] == x.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((2, 3)), "y": np.zeros(2)}, "no input 'X'"),
        ({"x": np.zeros((2, 3))}, "input 'y' is missing"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "'y' has 3 samples, but 'x' has 2"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, "samples: holds no samples"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, r"'x' has shape \(3,\), but .* x: float32\[N, 3\]"),
        ({"x": np.zeros((2, 4)), "y": np.zeros(2)}, r"sample 0: input 'x' has shape \(1, 4\)"),
        ({"x": np.zeros((2, 3), int), "y": np.zeros(2)}, "'x' is int64, .* expects float32"),
        ({"x": np.zeros((2, 3)), "y": np.asarray(0.0)}, r"'y' has shape \(\)"),
        (
            {"x": np.zeros((2, 3)), "y": np.zeros(2), "labels": np.zeros(3)},
            r"'labels' has shape \(3,\), but the inputs have 2 samples",
        ),
    ],
)
def test_what_does_not_fit(arrays, message):
    with pytest.raises(SamplesError, match=message):
        open_samples(arrays, [port("x", ("N", 3)), port("y", ("N",))])


def test_arrays_hold_no_sequences():
    with pytest.raises(SamplesError, match="'s' is a sequence, which arrays cannot hold"):
        open_samples({"s": np.zeros(3)}, [Port("s", "sequence", None, None)])


def test_nan_in_a_late_sample_is_numbered(tmp_path, save):
    x = np.zeros((4, 1), np.float32)
    x[3] = np.nan
    save(tmp_path / "a.npz", x=x)
    samples = open_samples(tmp_path / "a.npz", [port("x", ("N", 1))])
    with pytest.raises(SamplesError, match=r"a\.npz, sample 3: input 'x' holds NaN"):
        list(samples)


def test_python_objects_are_never_loaded(tmp_path, save):
    save(tmp_path / "a.npz", x=np.asarray([{}, []], object))
    with pytest.raises(SamplesError, match=r"a\.npz, array 'x': holds Python objects"):
        open_samples(tmp_path / "a.npz", [port("x", ("N",))])


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_damaged_archive(tmp_path, save, keep):
    path = tmp_path / "a.npz"
    save(path, x=np.random.default_rng(0).random((9, 9)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SamplesError, match=r"a\.npz: cannot be read \(.*numpy\.savez"):
        open_samples(path, [port("x", ("N", 9))])


def test_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"nonsense")
        archive.writestr("readme.txt", b"nonsense")
    with pytest.raises(SamplesError, match=r"no input 'readme\.txt'"):
        open_samples(tmp_path / "a.npz", [port("x", ("N",))])
    with pytest.raises(SamplesError, match=r"array 'x': cannot be read"):
        Archive(tmp_path / "a.npz")["x"]


def test_memory_does_not_grow_with_the_samples(tmp_path):
    n, side = 200, 512  # 200 MB
    big = np.memmap(tmp_path / "zeros", np.float32, "w+", shape=(n, side, side))
    np.savez(tmp_path / "big.npz", x=big)
    del big
    tracemalloc.start()
    try:
        samples = open_samples(tmp_path / "big.npz", [port("x", ("N", side, side))])
        assert sum(feed["x"].shape[0] for feed in samples.feeds()) == n
        assert samples.split()[1].count() == n // 5
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sample = 4 * side * side
    assert peak < 2 * sample + (4 << 20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_what_was_read_of_a_mapped_file_is_given_back(tmp_path, save, monkeypatch):
    monkeypatch.setattr(npz, "IN_MEMORY", 100)
    x = np.random.default_rng(0).normal(size=(64, 512, 512)).astype(np.float32)  # 67 MB
    save(tmp_path / "a.npz", x=x)
    samples = open_samples(tmp_path / "a.npz", [port("x", ("N", 512, 512))])
    before = _mapped()
    total = sum(float(feed["x"].sum()) for feed in samples.feeds())
    assert total == pytest.approx(float(x.sum(dtype=np.float64)), rel=1e-3)
    assert _mapped() - before < x.nbytes / 8


def _mapped():
    """Return the bytes of files that this process has in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssFile:")).split()[1])


def test_large_compressed_arrays_go_to_a_file_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "IN_MEMORY", 100)
    monkeypatch.setattr(npz.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=x)
    samples = open_samples(tmp_path / "a.npz", [port("x", ("N", 3)), port("y", ("N", 3))])
    part = samples.split()[1]
    del samples
    gc.collect()
    assert len(list((tmp_path / "tmp").rglob("*.npy"))) == 2
    assert all(np.array_equal(feed["x"], feed["y"]) for feed in part.feeds())
    del part
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())

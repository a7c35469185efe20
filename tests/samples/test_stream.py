from __future__ import annotations

import gc
import sys
import tempfile

import ml_dtypes
import numpy as np
import pytest

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import Sample, open_samples, synthetic

X = Port("x", "tensor", np.dtype(np.float32), ("N", 2))
S = Port("s", "sequence", None, None)


def feed(i: int = 0, rows: int = 1):
    return {"x": np.full((rows, 2), i, np.float32)}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module in the working directory; forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(text: str) -> None:
        (tmp_path / "calib_data.py").write_text("import numpy as np\ncalls = []\n" + text)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("calib_data"):
            del sys.modules[name]


def test_function_is_called_anew_for_each_pass(module):
    module(
        "def feeds():\n    calls.append(1)\n"
        "    for i in range(3):\n        yield {'x': np.full((i + 1, 2), i, np.float32)}, i\n"
    )
    path = list(sys.path)
    samples = open_samples("calib_data:feeds", [X])
    assert (samples.source, samples.labelled) == ("calib_data:feeds", True)
    for _ in range(2):
        found = [(s.feed["x"].shape, int(s.label)) for s in samples]
        assert found == [((1, 2), 0), ((2, 2), 1), ((3, 2), 2)]
    assert len(sys.modules["calib_data"].calls) == 3  # one to look at the first sample
    assert samples.count() == 3
    assert sys.path == path


@pytest.mark.parametrize(
    ("source", "body", "message"),
    [
        ("calib_dat:feeds", "", "cannot import calib_dat .*run from the folder"),
        ("calib_data:feed", "def feeds(): ...", r"no function 'feed', did you mean 'feeds'\?"),
        ("calib_data:zzz", "", "no function 'zzz': define it"),
        ("calib_data:calls", "", "no function 'calls'"),
        (
            "calib_data:feeds",
            "def feeds(): return 3",
            "gives a value of type int: return an iterable",
        ),
        (
            "calib_data:feeds",
            "def feeds(): return {}",
            "gives a value of type dict: return an iterable",
        ),
        ("calib_data:feeds", "def feeds(): return []", "calib_data:feeds: holds no samples"),
        ("calib_data:feeds", "def feeds(): yield 3", "yields a value of type int: yield feeds"),
        ("calib_data:feeds", "def feeds(): yield {'y': 1}", "no input 'y'"),
    ],
)
def test_wrong_functions(module, source, body, message):
    module(body)
    with pytest.raises(SamplesError, match=message):
        open_samples(source, [X])


def test_a_function_that_returns_one_iterator_for_ever(module):
    module("it = iter([{'x': np.zeros((1, 2), np.float32)}] * 3)\ndef feeds(): return it\n")
    samples = open_samples("calib_data:feeds", [X])
    with pytest.raises(SamplesError, match="returns the same iterator again"):
        list(samples)


def test_what_the_function_raises_keeps_its_traceback(module):
    module("def feeds():\n    yield {'x': 1 / 0}\n")
    with pytest.raises(ZeroDivisionError):
        open_samples("calib_data:feeds", [X])


def test_list_of_feeds_pairs_or_samples():
    for items in (
        [feed(0), feed(1)],
        [(feed(0), None), (feed(1), None)],
        [Sample(feed(0)), Sample(feed(1))],
    ):
        samples = open_samples(items, [X])
        assert (samples.count(), samples.labelled, samples.source) == (2, False, "samples")
        assert [f["x"][0, 0] for f in samples.feeds()] == [0, 1]


@pytest.mark.parametrize(("source", "name"), [(3, "int"), (None, "NoneType")])
def test_what_is_no_source(source, name):
    with pytest.raises(SamplesError, match=f"of type {name} is no source of samples"):
        open_samples(source, [X])


def test_empty_list_and_wrong_items():
    with pytest.raises(SamplesError, match="samples: holds no samples: give at least one"):
        open_samples([], [X])
    with pytest.raises(SamplesError, match="yields a value of type tuple: yield feeds"):
        open_samples([(1, 2)], [X])


def test_lists_may_hold_sequences():
    samples = open_samples([{"s": [np.zeros(1), np.zeros(2)]}], [S])
    assert [x.shape for x in next(samples.feeds())["s"]] == [(1,), (2,)]


def test_a_generator_can_be_read_twice_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    samples = open_samples(((feed(i, i + 1), np.asarray([i, i])) for i in range(4)), [X])
    assert (samples.count(), samples.labelled) == (4, True)
    for _ in range(2):
        found = [(s.feed["x"].shape[0], s.feed["x"][0, 0], s.label.tolist()) for s in samples]
        assert found == [(i + 1, i, [i, i]) for i in range(4)]
    assert len(list(tmp_path.rglob("*.npz"))) == 4
    del samples
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_generator_keeps_every_dtype_and_name():
    values = {
        "file": np.asarray(["a", "bc"], object),
        "a/b:0": np.asarray([True]),
        "half": np.asarray([1.5]).astype(ml_dtypes.bfloat16),
        "tiny": np.asarray([1.5]).astype(ml_dtypes.float8_e5m2),
        "label": np.asarray(3, np.int64),
    }
    inputs = [Port(k, "tensor", v.dtype, v.shape) for k, v in values.items()]
    (found,) = open_samples(iter([values]), inputs).feeds()
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {
        k: (v.dtype, v.tolist()) for k, v in values.items()
    }


def test_a_generator_is_checked_before_it_is_read_on():
    def feeds():
        yield feed()
        yield {"x": np.zeros(2, np.float32)}
        raise AssertionError("read on")

    with pytest.raises(SamplesError, match="sample 1: input 'x' has shape"):
        open_samples(feeds(), [X])


def test_a_generator_cannot_hold_sequences():
    with pytest.raises(SamplesError, match="'s' is no array, so it cannot be kept"):
        open_samples(iter([{"s": [np.zeros(1)]}]), [S])


def test_an_empty_generator():
    with pytest.raises(SamplesError, match="holds no samples"):
        open_samples(iter([]), [X])


def test_samples_are_checked_against_another_model():
    samples = synthetic([X], n=2)
    again = open_samples(samples, [X])
    assert (again.synthetic, again.source, again.count()) == (True, "synthetic", 2)
    with pytest.raises(SamplesError, match="no input 'x', did you mean"):
        open_samples(samples, [Port("xx", "tensor", X.dtype, X.shape)])

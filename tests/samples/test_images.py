from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from onnxopt.errors import SamplesError
from onnxopt.model.interface import Port
from onnxopt.samples import Preprocess, open_samples


def port(*shape, dtype="float32") -> Port:
    return Port("image", "tensor", np.dtype(dtype), shape)


def save(path, color=(255, 128, 0), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def feeds(path, inputs, text):
    samples = open_samples(path, [inputs], preprocess=Preprocess.parse(text))
    return [feed["image"] for feed in samples.feeds()]


def test_images_are_found_below_and_sorted(tmp_path):
    for i, name in enumerate(["b/1.png", "a/2.JPEG", "c.bmp", "d.webp", ".hidden/x.png"]):
        save(tmp_path / name, (i, i, i))
    (tmp_path / "notes.txt").write_text("no image")
    found = feeds(tmp_path, port("N", 3, "H", "W"), "raw")
    assert [round(float(x.mean())) for x in found] == [1, 0, 2, 3]
    assert found[0].shape == (1, 3, 6, 8)


def test_unit_color_and_layout(tmp_path):
    save(tmp_path / "a.png")
    (x,) = feeds(tmp_path, port("N", 3, 6, 8), "unit")
    np.testing.assert_allclose(x[0, :, 0, 0], [1, 128 / 255, 0])
    (x,) = feeds(tmp_path, port("N", 6, 8, 3), "raw:layout=nhwc:color=bgr")
    assert x[0, 0, 0].tolist() == [0, 128, 255]
    (x,) = feeds(tmp_path, port("N", 6, 8, 3), "tf")
    np.testing.assert_allclose(x[0, 0, 0], [1, 0.5 / 127.5, -1], rtol=1e-5)
    (x,) = feeds(tmp_path, port("N", 1, 6, 8), "raw:color=gray")
    assert x.shape == (1, 1, 6, 8)
    (x,) = feeds(tmp_path, port(3, 6, 8), "raw")
    assert x.shape == (3, 6, 8)


def test_imagenet_is_that_of_torchvision(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (300, 401, 3), np.uint8))
    image.save(tmp_path / "a.png")
    (x,) = feeds(tmp_path, port("N", 3, 224, 224), "imagenet")
    resized = image.resize((int(256 * 401 / 300), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), 16
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float64) / 255
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    wanted = ((pixels - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(x, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("unit", (6, 8)),
        ("unit:resize=3", (3, 4)),
        ("unit:resize=5x7", (7, 5)),
        ("unit:size=4", (4, 4)),
        ("unit:size=20x10", (10, 20)),
        ("unit:resize=4:crop=9", (9, 9)),
        ("imagenet:size=112", (112, 112)),
        ("imagenet:crop=none:resize=12", (12, 16)),
    ],
)
def test_sizes(tmp_path, text, shape):
    save(tmp_path / "a.png")
    (x,) = feeds(tmp_path, port("N", 3, None, None), text)
    assert x.shape == (1, 3, *shape)


def test_the_crop_is_that_of_the_input_where_it_fixes_one(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(100, 31))
    assert [x.shape for x in feeds(tmp_path, port("N", 3, 10, 7), "unit")] == [(1, 3, 10, 7)] * 2


def test_size_keeps_the_proportion_of_the_preset():
    assert Preprocess.parse("imagenet:size=320").resize == 366
    assert Preprocess.parse("imagenet:size=320x240").resize is None
    assert Preprocess.parse(" caffe ").mean == (103.939, 116.779, 123.68)


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16, "uint8", "int8"])
def test_the_dtype_is_that_of_the_input(tmp_path, dtype):
    save(tmp_path / "a.png", (7, 7, 7))
    text = "raw:mean=128" if dtype == "int8" else "raw"
    (x,) = feeds(tmp_path, port("N", 3, 6, 8, dtype=dtype), text)
    assert x.dtype == np.dtype(dtype)
    assert float(x[0, 0, 0, 0]) == (-121 if dtype == "int8" else 7)


def test_folders_named_by_numbers_are_labels(tmp_path):
    for name in ("3/a.png", "12/b.png"):
        save(tmp_path / name)
    samples = open_samples(tmp_path, [port("N", 3, 6, 8)], preprocess=Preprocess())
    assert [s.label.tolist() for s in samples] == [12, 3]
    save(tmp_path / "cat/c.png")
    assert not open_samples(tmp_path, [port("N", 3, 6, 8)], preprocess=Preprocess()).labelled


def test_a_fixed_batch_takes_as_many_images(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}/a.png", (i, i, i))
    samples = open_samples(tmp_path, [port(2, 3, 6, 8)], preprocess=Preprocess.parse("raw"))
    found = [(s.feed["image"][:, 0, 0, 0].tolist(), s.label.tolist()) for s in samples]
    assert found == [([0, 1], [0, 1]), ([2, 3], [2, 3])]
    with pytest.raises(SamplesError, match="holds no samples"):
        open_samples(tmp_path, [port(9, 3, 6, 8)], preprocess=Preprocess())


def test_images_want_to_be_told_how(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(SamplesError, match=r"say how to feed them with --preprocess \(imagenet, "):
        open_samples(tmp_path, [port("N", 3, 6, 8)])


def test_missing_pillow(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(SamplesError) as error:
        open_samples(tmp_path, [port("N", 3, 6, 8)], preprocess=Preprocess())
    assert "reading images needs Pillow: pip install 'onnxopt[images]'" in str(error.value)


@pytest.mark.parametrize("keep", [5, 60])
def test_broken_image(tmp_path, keep):
    save(tmp_path / "a.png", size=(64, 64))
    save(tmp_path / "b.png", size=(64, 64))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:keep])
    samples = open_samples(tmp_path, [port("N", 3, 64, 64)], preprocess=Preprocess())
    with pytest.raises(SamplesError, match=r"b\.png: is no image that Pillow can read"):
        list(samples)


@pytest.mark.parametrize(
    ("shape", "dtype", "text", "message"),
    [
        (("N", 3, 299, 299), "float32", "imagenet", "images of 224, .* add :size=299 to"),
        (("N", 3, 6, 8), "float32", "unit:size=4", "add :size=8x6 to"),
        (("N", 6, 8, 3), "float32", "unit", "rgb images in nchw do not fit .* layout= or color="),
        (("N", 10), "float32", "unit", r"images do not fit image: float32\[N, 10\]"),
        (("N", 3, 6, 8), "uint8", "unit", "is uint8, so pixels must not be scaled"),
        (("N", 3, 6, 8), "object", "unit", "images do not fit"),
    ],
)
def test_images_that_do_not_fit(tmp_path, shape, dtype, text, message):
    save(tmp_path / "a.png")
    with pytest.raises(SamplesError, match=message):
        feeds(tmp_path, port(*shape, dtype=dtype), text)


def test_images_feed_one_input(tmp_path):
    save(tmp_path / "a.png")
    inputs = [port("N", 3, 6, 8), Port("n", "tensor", np.dtype("int64"), ())]
    with pytest.raises(SamplesError, match=r"a folder of images feeds a model with one input"):
        open_samples(tmp_path, inputs, preprocess=Preprocess())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", r"unknown preset 'imagnet', did you mean 'imagenet'\? \(there are: imagenet"),
        ("", "unknown preset ''"),
        ("unit:sise=3", r"unknown option 'sise', did you mean 'size'\?"),
        ("unit:size=big", "cannot read 'size=big': write it as size=224 or size=640x480"),
        ("unit:mean=1,x", "cannot read 'mean=1,x'"),
        ("unit:mean=1,2", "mean has 2 values for 3 channels"),
        ("imagenet:color=gray", "mean has 3 values for 1 channels"),
        ("unit:std=0", "std must not be 0"),
        ("unit:size=0", "sizes must be 1 or more"),
        ("unit:layout=nchv", r"unknown layout 'nchv', did you mean 'nchw'\?"),
        ("unit:color=rgbb", r"unknown color 'rgbb', did you mean 'rgb'\?"),
    ],
)
def test_text_that_cannot_be_read(text, message):
    with pytest.raises(SamplesError, match=message):
        Preprocess.parse(text)

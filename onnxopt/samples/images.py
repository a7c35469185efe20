"""Samples from a folder of images; the only module that knows Pillow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Entry, Origin, Sample
from onnxopt.samples.check import integer_range
from onnxopt.samples.folder import single_input
from onnxopt.samples.preprocess import PRESETS, Preprocess, pair, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from PIL import Image

    from onnxopt.model.interface import Dim, Port

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted by path; hidden files are none."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def image_folder(
    folder: Path,
    files: Sequence[Path],
    inputs: Sequence[Port],
    preprocess: Preprocess | None,
    name: str,
) -> Origin:
    """Read a sample an image, or as many images a sample as the input fixes its batch to.

    The label of an image is the name of the subfolder it lies in, if that is a number for all
    images. Images that do not fill a last batch are left out.

    Raises:
        SamplesError: There is no `preprocess` or no Pillow, or the images do not fit the input.
    """
    if preprocess is None:
        raise SamplesError(
            f"{name}: holds images: say how to feed them with --preprocess "
            f"({', '.join(PRESETS)}; as in imagenet:size=320)"
        )
    _pillow()
    plan = _plan(single_input(inputs, f"{name}: a folder of images"), preprocess, name)
    parents = [file.parent.name if file.parent != folder else "" for file in files]
    labels = [int(p) for p in parents] if all(p.isdecimal() for p in parents) else None
    n = len(files) // plan.batch

    def entries() -> Iterator[Entry]:
        for i in range(n):
            part = slice(i * plan.batch, (i + 1) * plan.batch)
            read = partial(_read, files[part], labels[part] if labels else None, plan)
            yield Entry(read, str(files[part][0].relative_to(folder)))

    return Origin(name, entries, n)


@dataclass(frozen=True)
class _Plan:
    """How the images of a sample become the feed of one input."""

    port: Port
    dtype: np.dtype
    preprocess: Preprocess
    batch: int
    batched: bool


def _plan(port: Port, preprocess: Preprocess, name: str) -> _Plan:
    """Compare the input with what the preprocessing makes."""
    dims = port.shape if port.shape is not None else (None,) * 4
    if port.dtype is None or port.dtype.kind == "O" or len(dims) not in (3, 4):
        raise SamplesError(
            f"{name}: images do not fit {port}: use .npz files for an input that is no image"
        )
    batched = len(dims) == 4
    batch = dims[0] if batched else 1
    channels, height, width = _axes(dims[-3:], preprocess.layout)
    if isinstance(channels, int) and channels > 0 and channels != preprocess.channels:
        raise SamplesError(
            f"{name}: {preprocess.color} images in {preprocess.layout} do not fit {port}: "
            "give --preprocess another layout= or color="
        )
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        if preprocess.crop is None:
            preprocess = replace(preprocess, crop=(width, height))
        if preprocess.crop is not None and pair(preprocess.crop) != (width, height):
            raise SamplesError(
                f"{name}: preprocessing cuts images of {text(preprocess.crop)}, but the model "
                f"expects {port}: add :size={text((width, height))} to --preprocess"
            )
    _check_integer(port, preprocess, name)
    k = batch if isinstance(batch, int) and batch > 0 else 1
    return _Plan(port, port.dtype, preprocess, k, batched)


def _axes(dims: Sequence[Dim], layout: str) -> tuple[Dim, Dim, Dim]:
    """Return (channels, height, width) of three dimensions."""
    a, b, c = dims
    return (a, b, c) if layout == "nchw" else (c, a, b)


def _check_integer(port: Port, preprocess: Preprocess, name: str) -> None:
    """Raise SamplesError if an integer input would get scaled, so rounded, pixels."""
    if port.dtype is None or integer_range(port.dtype) is None:
        return
    if preprocess.scale != 1 or set(preprocess.std) != {1}:
        raise SamplesError(
            f"{name}: input {port.name!r} is {port.dtype}, so pixels must not be scaled: "
            "give --preprocess raw"
        )


def _pillow() -> None:
    """Raise SamplesError if Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise SamplesError(
            "calibration data: reading images needs Pillow: pip install 'onnxopt[images]'"
        ) from error


def _read(files: Sequence[Path], labels: Sequence[int] | None, plan: _Plan) -> Sample:
    """Read the images of one sample."""
    pixels = [_pixels(file, plan.preprocess) for file in files]
    found = np.stack(pixels) if plan.batched else pixels[0]
    limits = integer_range(plan.dtype)
    if limits is not None:
        found = np.clip(np.rint(found), *limits)
    label = None
    if labels is not None:
        label = np.asarray(labels if plan.batch > 1 else labels[0], np.int64)
    return Sample({plan.port.name: found.astype(plan.dtype)}, label)


def _pixels(file: Path, p: Preprocess) -> np.ndarray:
    """Return one image as float32 in the layout of `p`, without a batch axis."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = _crop(opened.convert("L" if p.color == "gray" else "RGB"), p)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SamplesError(
            f"{file}: is no image that Pillow can read ({error}): repair or remove it"
        ) from error
    pixels = np.asarray(image, np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], p.channels)
    if p.color == "bgr":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels * np.float32(p.scale) - np.asarray(p.mean, np.float32)) / np.asarray(
        p.std, np.float32
    )
    return np.ascontiguousarray(pixels if p.layout == "nhwc" else pixels.transpose(2, 0, 1))


def _crop(image: Image.Image, p: Preprocess) -> Image.Image:
    """Resize and cut out the centre, both with the arithmetic of torchvision."""
    from PIL import Image

    size = _resized(image.size, p)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if p.crop is None or pair(p.crop) == image.size:
        return image
    width, height = pair(p.crop)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _resized(size: tuple[int, int], p: Preprocess) -> tuple[int, int]:
    """Return the (width, height) that an image of some size is resized to."""
    width, height = size
    if isinstance(p.resize, tuple):
        return p.resize
    if isinstance(p.resize, int):
        short = min(size)
        return int(p.resize * width / short), int(p.resize * height / short)
    if p.crop is None:
        return size
    # Just large enough for the crop.
    crop = pair(p.crop)
    ratio = max(crop[0] / width, crop[1] / height)
    return max(crop[0], round(width * ratio)), max(crop[1], round(height * ratio))

"""Which kind of source a path, text or object is, and samples of it that are checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Entry, Loader, Origin, Samples
from onnxopt.samples.check import check_entry
from onnxopt.samples.columns import columns
from onnxopt.samples.folder import (
    array_files,
    array_folder,
    data_set_folder,
    data_sets,
    single_input,
)
from onnxopt.samples.images import image_files, image_folder
from onnxopt.samples.npz import Archive, read_npy
from onnxopt.samples.stream import FUNCTION, from_function, from_iterable

if TYPE_CHECKING:
    from onnxopt.model.interface import Port
    from onnxopt.samples.preprocess import Preprocess


def open_samples(
    source: str | os.PathLike[str] | Samples | Iterable[Mapping[str, np.ndarray]],
    inputs: Sequence[Port],
    *,
    preprocess: Preprocess | None = None,
) -> Samples:
    """Open calibration samples for a model.

    Sources, all read without pickle and without holding more than a sample in memory:

    * `x.npz`: a key an input, the samples along the first axis or an axis in front (see
      `columns`), optional `labels`; `x.npy` likewise for a model with one input;
    * a folder of `.npz` or `.npy`: a file a sample (see `array_folder`);
    * a folder of `test_data_set_*`, or one of them: the ONNX convention;
    * a folder of images, with `preprocess` (see `image_folder`);
    * `module:function`, an iterable of feeds or of pairs (feed, label) (see `from_function`), a
      dict of arrays, which is read as an `.npz` is, or `Samples`.

    Shapes may differ from sample to sample, as far as the inputs allow. The first sample is
    checked now, every sample when it is iterated. Casts that lose nothing are done: float64 to
    float32 (numpy makes float64), integers and bools where all values fit.

    Args:
        source: Where the samples are.
        inputs: The inputs of the model, in the order of the graph.
        preprocess: What is done to images; for a folder of images only.

    Raises:
        SamplesError: The source cannot be read, is empty, or does not fit the inputs.
    """
    origin = _origin(source, inputs, preprocess)
    return _checked(origin, inputs, isinstance(source, Samples) and source.synthetic)


def _checked(origin: Origin, inputs: Sequence[Port], synthetic: bool) -> Samples:
    """Return samples that are checked when they are read; the first one is at once."""
    first = next(iter(origin.entries()), None)
    if first is None:
        raise SamplesError(f"{origin.name}: holds no samples: give at least one")
    labelled = check_entry(first, 0, inputs, origin.name).label is not None

    def read(entry: Entry, number: int) -> Any:
        sample = check_entry(entry, number, inputs, origin.name)
        if (sample.label is not None) != labelled:
            raise SamplesError(
                f"{origin.name}: sample {0 if labelled else number} has a label, but sample "
                f"{number if labelled else 0} has none: give all samples one, or none"
            )
        return sample

    def loaders() -> Iterator[Loader]:
        return (partial(read, entry, i) for i, entry in enumerate(origin.entries()))

    return Samples(
        loaders, origin.name, labelled=labelled, length=origin.length, synthetic=synthetic
    )


def _origin(source: Any, inputs: Sequence[Port], preprocess: Preprocess | None) -> Origin:
    """Find the samples of any source."""
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source), inputs, preprocess)
    if preprocess is not None:
        raise _no_images("samples")
    if isinstance(source, Samples):
        return source.origin()
    if isinstance(source, Mapping):
        arrays = {key: np.asarray(value) for key, value in source.items()}
        return columns(arrays, inputs, "samples")
    if isinstance(source, Iterable):
        return from_iterable(source, inputs, "samples")
    raise SamplesError(
        f"samples: a value of type {type(source).__name__} is no source of samples: "
        "give a path, module:function or an iterable of feeds"
    )


def _from_path(text: str, inputs: Sequence[Port], preprocess: Preprocess | None) -> Origin:
    """Find the samples of a path or `module:function`."""
    path = Path(text)
    name = path.name or text
    if path.is_dir():
        return _from_folder(path, inputs, preprocess, path.resolve().name or text)
    if preprocess is not None:
        raise _no_images(text)
    if not path.exists():
        if FUNCTION.fullmatch(text):
            return from_function(text)
        raise SamplesError(
            f"{text}: there is no such file or folder: give an .npz, a folder or module:function"
        )
    if path.suffix.lower() == ".npz":
        return columns(Archive(path), inputs, name)
    if path.suffix.lower() == ".npy":
        only = single_input(inputs, name).name
        return columns({only: read_npy(path, mapped=True)}, inputs, name)
    raise SamplesError(
        f"{text}: is no source of samples: give an .npz, a folder or module:function"
    )


def _from_folder(
    path: Path, inputs: Sequence[Port], preprocess: Preprocess | None, name: str
) -> Origin:
    """Find the samples in a folder, by what lies in it."""
    origin = None
    if folders := data_sets(path):
        origin = data_set_folder(folders, inputs, name)
    elif files := array_files(path):
        origin = array_folder(files, inputs, name)
    elif images := image_files(path):
        return image_folder(path, images, inputs, preprocess, name)
    if origin is None:
        raise SamplesError(
            f"{path}: holds no samples: put .npz, .npy, images or test_data_set_* folders there"
        )
    if preprocess is not None:
        raise _no_images(str(path))
    return origin


def _no_images(name: str) -> SamplesError:
    """Return the error for preprocessing where there is nothing to preprocess."""
    return SamplesError(f"{name}: --preprocess is for a folder of images: leave it out")

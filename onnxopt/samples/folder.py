"""Folders with a file or a subfolder a sample: `.npz`, `.npy`, `test_data_set_*`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Entry, Feed, Origin, Sample
from onnxopt.samples.columns import LABELS
from onnxopt.samples.npz import read_npy, read_npz

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from onnxopt.model.interface import Port

ARRAY_SUFFIXES = (".npz", ".npy")
DATA_SET = re.compile(r"test_data_set_(\d+)")
INPUT = re.compile(r"input_(\d+)\.pb")


def array_files(folder: Path) -> list[Path]:
    """Return the `.npz` and `.npy` files of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ARRAY_SUFFIXES)


def array_folder(files: Sequence[Path], inputs: Sequence[Port], name: str) -> Origin:
    """Read a sample a file.

    An `.npz` has a key an input, an `.npy` is the only input. Arrays are fed as they are, whatever
    the length of their first axis; one whose rank is one less than that of its input gets a first
    axis of 1. The key `labels`, unless an input is called so, is the label (`labels[0]` where its
    first axis is 1).
    """

    def entries() -> Iterator[Entry]:
        return (Entry(partial(_read_arrays, file, inputs), file.name) for file in files)

    return Origin(name, entries, len(files))


def single_input(inputs: Sequence[Port], what: str) -> Port:
    """Return the one input that must be fed; SamplesError if there are others."""
    required = [port for port in inputs if port.required] or list(inputs[:1])
    if len(required) != 1:
        names = ", ".join(port.name for port in required) or "none"
        raise SamplesError(
            f"{what} feeds a model with one input, but this one has {len(required)} ({names}): "
            "use .npz files with a key an input"
        )
    return required[0]


def data_sets(folder: Path) -> list[Path]:
    """Return the `test_data_set_*` folders in `folder`, or itself if it is one, by number."""
    found = [p for p in folder.iterdir() if DATA_SET.fullmatch(p.name) and p.is_dir()]
    if not found and any(INPUT.fullmatch(p.name) for p in folder.iterdir()):
        return [folder]
    return sorted(found, key=lambda p: _number(DATA_SET, p))


def data_set_folder(folders: Sequence[Path], inputs: Sequence[Port], name: str) -> Origin:
    """Read a sample a folder: `input_j.pb` is input j of the graph, in the kind it declares."""

    def entries() -> Iterator[Entry]:
        return (Entry(partial(_read_data_set, p, inputs), p.name) for p in folders)

    return Origin(name, entries, len(folders))


def _read_arrays(file: Path, inputs: Sequence[Port]) -> Sample:
    """Read the sample in one `.npz` or `.npy`."""
    by_name = {port.name: port for port in inputs}
    if file.suffix.lower() == ".npy":
        arrays = {single_input(inputs, str(file)).name: read_npy(file)}
    else:
        arrays = read_npz(file)
    label = None if LABELS in by_name else arrays.pop(LABELS, None)
    if label is not None and label.shape[:1] == (1,):
        label = np.asarray(label[0])
    return Sample({key: _batched(x, by_name.get(key)) for key, x in arrays.items()}, label)


def _batched(array: np.ndarray, port: Port | None) -> np.ndarray:
    """Add the batch axis if it is what is missing."""
    if port is None or port.shape is None or array.ndim != len(port.shape) - 1:
        return array
    return array[None]


def _read_data_set(folder: Path, inputs: Sequence[Port]) -> Sample:
    """Read the sample in one `test_data_set_*`."""
    files = [p for p in folder.iterdir() if INPUT.fullmatch(p.name)]
    feed: Feed = {}
    for file in sorted(files, key=lambda p: _number(INPUT, p)):
        index = _number(INPUT, file)
        if index >= len(inputs):
            raise SamplesError(f"{file}: the model has only {len(inputs)} inputs: remove the file")
        feed[inputs[index].name] = _parse(file, inputs[index])
    return Sample(feed)


def _number(pattern: re.Pattern[str], path: Path) -> int:
    """Return the number in a name; -1 without one."""
    match = pattern.fullmatch(path.name)
    return int(match[1]) if match else -1


def _parse(file: Path, port: Port) -> Any:
    """Read one `.pb` as its input declares it."""
    parsers: dict[str, Callable[[bytes], Any]] = {
        "tensor": lambda raw: numpy_helper.to_array(
            onnx.TensorProto.FromString(raw), str(file.parent)
        ),
        "sequence": lambda raw: numpy_helper.to_list(onnx.SequenceProto.FromString(raw)),
        "optional": lambda raw: numpy_helper.to_optional(onnx.OptionalProto.FromString(raw)),
        "map": lambda raw: numpy_helper.to_dict(onnx.MapProto.FromString(raw)),
    }
    if port.kind not in parsers:
        raise SamplesError(
            f"{file}: input {port.name!r} is {port.kind}, which no .pb file holds: "
            "use module:function"
        )
    try:
        return parsers[port.kind](file.read_bytes())
    except (
        DecodeError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        onnx.checker.ValidationError,
    ) as e:
        raise SamplesError(
            f"{file}: cannot be read as {port} ({e}): write it as the ONNX backend tests do"
        ) from e

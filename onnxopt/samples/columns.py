"""Samples in arrays whose first axis is the samples: an `.npz`, an `.npy`, a dict of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples import npz
from onnxopt.samples.base import Entry, Origin, Sample
from onnxopt.samples.check import check_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxopt.model.interface import Port

LABELS = "labels"


class Column(NamedTuple):
    """How one array holds the samples.

    Attributes:
        array: All samples.
        step: Sample i is `array[i * step : (i + 1) * step]`; 0: it is `array[i]`.
        length: The number of samples, None for a constant.
        constant: Whether a length of 1 may serve any number of samples.
    """

    array: np.ndarray
    step: int
    length: int | None
    constant: bool = False

    def read(self, i: int) -> np.ndarray:
        """Return a copy of sample `i`, so that no view keeps the whole array."""
        if self.length is None:
            return np.array(self.array)
        part = self.array[i * self.step : (i + 1) * self.step] if self.step else self.array[i]
        found = np.array(part)
        npz.release(self.array)
        return found


def columns(arrays: Mapping[str, np.ndarray], inputs: Sequence[Port], name: str) -> Origin:
    """Read samples from arrays, a key an input.

    Let r be the rank of the input. An array of rank

    * r + 1 holds sample i in `x[i]`;
    * r holds it in `x[i:i+1]`, or, where the input fixes its first dimension to k, in
      `x[i*k:(i+1)*k]`;
    * 0, for an input of rank 0, is a constant: every sample gets it. So is an array that is as
      long as the fixed first dimension, where other inputs have more samples than one.

    An input of unknown rank counts as `x[i:i+1]`. The key `labels`, unless an input is called so,
    holds label i in `labels[i]`, or one label a row where inputs fix their batch to k.

    Raises:
        SamplesError: A key, rank or length is wrong, or there are no samples.
    """
    keys = [key for key in arrays if not _is_label(key, inputs)]
    check_keys(keys, inputs, name)  # before any array is opened
    by_name = {port.name: port for port in inputs}
    found = {key: _column(arrays[key], by_name[key], name) for key in keys}
    n = _common_length(found, name)
    labels = None
    if len(keys) < len(arrays):
        labels = _labels(arrays[LABELS], n, {column.step for column in found.values()}, name)
    fixed = {
        key: column if column.length == n else column._replace(length=None)
        for key, column in found.items()
    }
    return Origin(name, _Table(arrays, fixed, labels, n).entries, n)


@dataclass(frozen=True)
class _Table:
    """All columns; `owner` keeps the file that they are in."""

    owner: Mapping[str, np.ndarray]
    inputs: Mapping[str, Column]
    labels: Column | None
    length: int

    def entries(self) -> Iterator[Entry]:
        """Start a pass."""
        return (Entry(partial(self.read, i)) for i in range(self.length))

    def read(self, i: int) -> Sample:
        """Read sample `i`."""
        feed = {key: column.read(i) for key, column in self.inputs.items()}
        return Sample(feed, None if self.labels is None else self.labels.read(i))


def _is_label(key: str, inputs: Sequence[Port]) -> bool:
    """Return whether an array holds labels: an input that is really called so wins."""
    return key == LABELS and all(port.name != LABELS for port in inputs)


def _column(array: np.ndarray, port: Port, name: str) -> Column:
    """Find out how an array holds the samples of an input."""
    if port.kind != "tensor":
        raise SamplesError(
            f"{name}: input {port.name!r} is a {port.kind}, which arrays cannot hold: "
            "use test_data_set_* folders or module:function"
        )
    rank = max(array.ndim, 1) if port.shape is None else len(port.shape)
    if array.ndim == rank + 1:
        return Column(array, 0, len(array))
    if array.ndim == 0 and not port.shape:
        return Column(array, 0, None)
    if array.ndim != rank:
        raise SamplesError(
            f"{name}: input {port.name!r} has shape {array.shape}, but the model expects {port}: "
            "give that shape, with the samples along the first axis or an axis in front of it"
        )
    first = port.shape[0] if port.shape else None
    if not isinstance(first, int) or first < 1:
        return Column(array, 1, len(array))
    if len(array) % first:
        raise SamplesError(
            f"{name}: input {port.name!r} has shape {array.shape}, but the model expects {port}: "
            f"the first axis must be a multiple of {first}"
        )
    return Column(array, first, len(array) // first, constant=True)


def _common_length(found: Mapping[str, Column], name: str) -> int:
    """Return the number of samples in all columns."""
    lengths = {key: column.length for key, column in found.items() if column.length is not None}
    if not lengths:
        return 1
    longest = max(lengths, key=lambda key: lengths[key])
    n = lengths[longest]
    for key, length in lengths.items():
        if length != n and not (length == 1 and found[key].constant):
            raise SamplesError(
                f"{name}: input {longest!r} has {n} samples, but {key!r} has {length}: "
                "give every input the same number"
            )
    return n


def _labels(array: np.ndarray, n: int, steps: set[int], name: str) -> Column:
    """Find out how an array holds the labels of `n` samples."""
    length = len(array) if array.ndim else -1
    if length == n:
        return Column(array, 0, n)
    for step in steps:
        if step and length == n * step:
            return Column(array, step, n)
    raise SamplesError(
        f"{name}: {LABELS!r} has shape {array.shape}, but the inputs have {n} samples: "
        "give a label a sample"
    )

"""Whether a feed fits the inputs of a model, with the few casts that lose nothing."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from onnxopt.errors import SamplesError
from onnxopt.samples.base import Entry, Feed, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxopt.model.interface import Port


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the nearest of `among`, or nothing."""
    near = get_close_matches(word, list(among), 1)
    return f", did you mean {near[0]!r}?" if near else ""


def check_entry(entry: Entry, number: int, inputs: Sequence[Port], source: str) -> Sample:
    """Read a sample and make it ready for a session; messages call it by number and file."""
    where = f"{source}, sample {number}" + (f" ({entry.file})" if entry.file else "")
    sample = entry.read()
    return Sample(check_feed(sample.feed, inputs, where), sample.label)


def check_feed(feed: Mapping[str, Any], inputs: Sequence[Port], where: str) -> Feed:
    """Return the feed with every array in the dtype of its input.

    Tensors are checked; values of other kinds (sequences, maps, optionals) pass as they are.

    Raises:
        SamplesError: A key is unknown or missing, or a dtype, rank or static dimension is wrong,
            or a float input holds NaN. Infinity passes: attention masks are made of it.
    """
    check_keys(feed, inputs, where)
    by_name = {port.name: port for port in inputs}
    return {name: _fit(value, by_name[name], where) for name, value in feed.items()}


def check_keys(names: Iterable[str], inputs: Sequence[Port], where: str) -> None:
    """Raise SamplesError unless `names` are inputs, and all that have no default are there."""
    given = list(names)
    known = [port.name for port in inputs]
    for name in given:
        if name not in known:
            raise SamplesError(
                f"{where}: the model has no input {name!r}{did_you_mean(str(name), known)} "
                f"(its inputs: {'; '.join(map(str, inputs))})"
            )
    for port in inputs:
        if port.required and port.name not in given:
            raise SamplesError(f"{where}: input {port.name!r} is missing: add {port}")


def check_shape(shape: tuple[int, ...], port: Port, where: str) -> None:
    """Raise SamplesError unless the rank and the static dimensions are those of the input."""
    if port.shape is None:
        return
    # Some exporters write -1 for "unknown".
    same = len(shape) == len(port.shape) and all(
        size == dim or not isinstance(dim, int) or dim < 0
        for size, dim in zip(shape, port.shape, strict=True)
    )
    if not same:
        raise SamplesError(
            f"{where}: input {port.name!r} has shape {shape}, but the model expects {port}: "
            "give arrays of that shape"
        )


def integer_range(dtype: np.dtype) -> tuple[int, int] | None:
    """Return the least and greatest value of an integer or bool dtype, None for others."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind not in "iuV":
        return None
    try:
        # That of ml_dtypes knows int4 and the like besides numpy's own.
        info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        return None
    return int(info.min), int(info.max)


def has_nan(array: np.ndarray) -> bool:
    """Return whether a float or complex array of any dtype, ml_dtypes too, holds NaN."""
    if array.dtype.kind not in "fcV" or integer_range(array.dtype) is not None:
        return False
    return bool(np.isnan(array).any())


def _fit(value: Any, port: Port, where: str) -> Any:
    """Return a value as its input wants it."""
    if port.kind != "tensor" or port.dtype is None:
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SamplesError(
            f"{where}: input {port.name!r} is no array ({error}): the model expects {port}"
        ) from error
    check_shape(array.shape, port, where)
    found = _cast(array, port.dtype)
    if found is None:
        raise SamplesError(
            f"{where}: input {port.name!r} is {array.dtype}{_values(array, port.dtype)}, "
            f"but the model expects {port.dtype}: convert it (the input is {port})"
        )
    if has_nan(found):
        raise SamplesError(
            f"{where}: input {port.name!r} holds NaN: repair the sample or leave it out"
        )
    return found


def _values(array: np.ndarray, dtype: np.dtype) -> str:
    """Return what to say of values where the dtype alone is not what is wrong."""
    if array.size == 0:
        return ""
    if integer_range(dtype) is not None and integer_range(array.dtype) is not None:
        wide = _native(array)
        return f" with values from {wide.min()} to {wide.max()}"
    if array.dtype == np.float64 and dtype == np.float32:
        return " with values beyond its range"
    if array.dtype.kind == "O" and dtype.kind == "O":
        return " with values that are not str"
    return ""


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Return the array in `dtype` where that loses nothing that matters, else None."""
    if dtype.kind == "O":
        return _strings(array)
    if array.dtype == dtype:
        return array
    if array.dtype.newbyteorder("=") == dtype:
        return array.astype(dtype)
    if array.dtype.type is np.void and array.dtype.itemsize == dtype.itemsize:
        # Files cannot name bfloat16 and its kin: np.save writes plain bytes.
        return np.array(array).view(dtype) if dtype.isbuiltin == 2 else None
    if array.dtype.newbyteorder("=") == np.float64 and dtype == np.float32:
        with np.errstate(over="ignore"):
            single = array.astype(dtype)
        return None if np.isinf(single).sum() > np.isinf(array).sum() else single
    return _integers(array, dtype)


def _strings(array: np.ndarray) -> np.ndarray | None:
    """Return an object array of str, None if there is anything else in it."""
    if array.dtype.kind in "UT":
        return array.astype(object)
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        return array
    return None


def _integers(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Return integers or bools in another such dtype if all values fit, else None."""
    limits = integer_range(dtype)
    if limits is None or integer_range(array.dtype) is None:
        return None
    wide = _native(array)
    if wide.size and (int(wide.min()) < limits[0] or int(wide.max()) > limits[1]):
        return None
    return wide.astype(dtype)


def _native(array: np.ndarray) -> np.ndarray:
    """Return int4 and the like as int64, so that numpy can compare them."""
    return array.astype(np.int64) if array.dtype.kind == "V" else array

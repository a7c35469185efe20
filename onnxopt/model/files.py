"""Model files: mapped, not copied, on reading; whole or not at all on writing."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import tempfile
import weakref
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from onnxopt.errors import ModelError, OutputError
from onnxopt.model import wire
from onnxopt.model.tensors import BITS, INLINE, Stored, raw_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

LIMIT = 2**31 - 1
"""Bytes; protobuf refuses larger messages."""

PAGE = 4096
GRANULE = 65536
"""Offsets of tensors over a megabyte are multiples of this, so that Windows can map them too."""

DATA_SUFFIX = re.compile(r"\.[0-9a-f]{8}\.data")


def check_path(path: Path) -> None:
    """Refuse what cannot be a model file.

    Raises:
        ModelError: It is missing, a directory, a pipe or empty, or may not be read.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a directory; give the .onnx file in it")
    if not path.exists():
        raise ModelError(f"{path} does not exist")
    if not path.is_file():  # reading a pipe may wait for ever
        raise ModelError(f"{path} is no regular file; save the model to one")
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path} may not be read: check its permissions")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty")


_MAPS: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""What is mapped at present, so that its pages can be given back."""


def mapped(path: Path) -> np.ndarray:
    """Return a file's bytes, mapped read-only: uint8 of one axis."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPS.add(data)
    return np.frombuffer(data, np.uint8)


def release() -> None:
    """Give the pages of mapped files back to the system; reading them again brings them back."""
    for data in list(_MAPS):
        with contextlib.suppress(AttributeError, OSError):  # not every system can
            data.madvise(mmap.MADV_DONTNEED)


def read(path: Path) -> tuple[onnx.ModelProto, dict[str, Stored]]:
    """Read a model file, its large weights left in the mapped file.

    Returns:
        The message, where these initializers are external tensors without a location, and their
        bytes by name.

    Raises:
        ModelError: The file is not an ONNX model.
    """
    check_path(path)
    data = mapped(path)
    try:
        message, cut = wire.split(data.data, INLINE)
        proto = onnx.ModelProto.FromString(message)
    except (wire.Malformed, DecodeError, RecursionError) as e:
        raise ModelError(f"{path} is not an ONNX model, or is cut short") from e
    if not proto.HasField("graph"):
        raise ModelError(f"{path} is not an ONNX model: it has no graph")
    weights: dict[str, Stored] = {}
    for index, (start, stop) in cut.items():
        tensor = proto.graph.initializer[index]
        if tensor.data_type not in BITS:
            tensor.raw_data = data[start:stop].tobytes()
            continue
        origin = (path.resolve(), start)
        weights[tensor.name] = Stored(
            tensor.data_type, tensor.dims, data[start:stop], tensor.name, origin
        )
        tensor.data_location = TensorProto.EXTERNAL
    return proto, weights


class External:
    """Finds the bytes of external tensors, each file mapped once.

    Args:
        folder: The model's folder; nothing outside it is read. None for a model in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.open: dict[Path, np.ndarray] = {}

    def __call__(self, tensor: TensorProto) -> Stored:
        """Return the bytes of an external tensor.

        Raises:
            ModelError: The location leaves the folder, the file is missing, or is too short.
        """
        entry = {e.key: e.value for e in tensor.external_data}
        name = tensor.name
        if self.folder is None:
            raise ModelError(f"{name!r} is in an external file: load the model from its path")
        path = self.locate(entry.get("location", ""), name)
        if path not in self.open:
            if not path.is_file():
                raise ModelError(f"external data of {name!r} are missing: there is no {path}")
            empty = path.stat().st_size == 0
            self.open[path] = np.empty(0, np.uint8) if empty else mapped(path)
        data = self.open[path]
        if tensor.data_type not in BITS:
            raise ModelError(f"external tensor {name!r} has unknown type {tensor.data_type}")
        try:
            offset = int(entry.get("offset") or 0)
            length = int(entry.get("length") or raw_size(tensor.data_type, tensor.dims))
        except ValueError as e:
            raise ModelError(f"external data of {name!r}: offset or length is no number") from e
        if offset < 0 or length < 0 or offset + length > len(data):
            raise ModelError(
                f"external data of {name!r} end at byte {offset + length},"
                f" but {path} has {len(data)} bytes"
            )
        found = data[offset : offset + length]
        return Stored(tensor.data_type, tensor.dims, found, name, (path, offset))

    def locate(self, location: str, name: str) -> Path:
        """Resolve a location inside the model's folder, links followed."""
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
        parts = PurePosixPath(location.replace("\\", "/")).parts
        folder = (self.folder or Path()).resolve()
        path = folder.joinpath(*parts) if parts and not absolute and ".." not in parts else None
        if path is None or not path.resolve().is_relative_to(folder):
            raise ModelError(
                f"external data of {name!r} are at {location!r},"
                " outside the model's folder: refused"
            )
        return path.resolve()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it is fsynced and takes its place.

    Raises:
        OutputError: The folder does not exist or may not be written, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as e:
        raise OutputError(f"cannot write to {path.parent}: {e.strerror}") from e
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _keep_mode(Path(name), path)
        os.replace(name, path)
        _sync_folder(path.parent)
    except OSError as e:
        raise OutputError(f"cannot write {path}: {e.strerror}") from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _keep_mode(temporary: Path, path: Path) -> None:
    """Give a new file the mode of the one it replaces, else what the umask leaves of 666."""
    if path.exists():
        mode = path.stat().st_mode & 0o777
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    temporary.chmod(mode)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write(
    path: Path, proto: onnx.ModelProto, weights: Mapping[str, Stored], external: bool
) -> None:
    """Write a model: one file, or with its weights in one data file beside it.

    The data file is named by its content, so that the old model keeps its own until the new one
    is in place; then data files that only the old model of that name used are removed.

    Args:
        path: The model file; replaced if it exists.
        proto: The message without its large weights.
        weights: Their bytes, by name of the initializer.
        external: Whether to keep them beside the file even where one file could hold them.

    Raises:
        OutputError: It cannot be written there. What was there before is untouched.
    """
    total = proto.ByteSize() + sum(w.nbytes for w in weights.values())
    kept = None
    if weights and (external or total + len(weights) * 64 > LIMIT):
        kept = _write_data(path, proto, weights)
        weights = {}
    with atomic(path) as file:
        wire.join(proto, weights, file)
    for old in path.parent.glob(f"{glob_escape(path.name)}.*.data"):
        if DATA_SUFFIX.fullmatch(old.name[len(path.name) :]) and old.name != kept:
            old.unlink()


def glob_escape(name: str) -> str:
    """Escape what a glob would take for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _write_data(path: Path, proto: onnx.ModelProto, weights: Mapping[str, Stored]) -> str:
    """Write the data file and point the message's initializers into it."""
    digest = hashlib.sha256()
    places: dict[str, tuple[int, int]] = {}
    at = 0
    for name, stored in weights.items():
        step = GRANULE if stored.nbytes > 2**20 else PAGE
        at = -(-at // step) * step
        places[name] = (at, stored.nbytes)
        at += stored.nbytes
        digest.update(f"{name}\0{places[name]}\0".encode())
        digest.update(stored.raw.data)
    name = f"{path.name}.{digest.hexdigest()[:8]}.data"
    with atomic(path.parent / name) as file:
        for key, stored in weights.items():
            file.seek(places[key][0])
            file.write(stored.raw.data)
    for tensor in proto.graph.initializer:
        if tensor.name in places:
            offset, length = places[tensor.name]
            tensor.ClearField("external_data")
            for k, v in (("location", name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=k, value=str(v))
    return name


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()

"""Arrays of `.npz` and `.npy` files, without holding them in memory and without pickle."""

from __future__ import annotations

import mmap
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy

from onnxopt.errors import SamplesError

IN_MEMORY = 1 << 20
"""Compressed arrays of up to so many bytes are held; larger ones go to a temporary file."""

READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # an encrypted archive; NotImplementedError: an unknown compression
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file by key, each opened when it is first asked for.

    Stored arrays (`np.savez`) are mapped into memory where they lie in the file. Compressed ones
    (`np.savez_compressed`) are unpacked once: small ones into memory, large ones into a temporary
    folder that lives as long as this object.

    Raises:
        SamplesError: The file is no `.npz`, is damaged, or an array holds Python objects.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, np.ndarray] = {}
        self._folder: Path | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {
                    info.filename.removesuffix(".npy"): info for info in archive.infolist()
                }
        except READ_ERRORS as error:
            raise unreadable(path, error) from error

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._arrays:
            info = self._members[key]
            try:
                self._arrays[key] = self._open(info)
            except READ_ERRORS as error:
                raise unreadable(self._path, error, key) from error
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def _open(self, info: zipfile.ZipInfo) -> np.ndarray:
        """Map, read or unpack one array."""
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            mapped = _map(self._path, info)
            if mapped is not None:
                return mapped
        with zipfile.ZipFile(self._path) as archive, archive.open(info) as member:
            if info.file_size <= IN_MEMORY:
                return np.asarray(npy.read_array(member, allow_pickle=False))
            unpacked = self._temporary() / f"{len(self._arrays)}.npy"
            with unpacked.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
        return npy.open_memmap(unpacked, mode="r")

    def _temporary(self) -> Path:
        """Return the temporary folder, made at the first call."""
        if self._folder is None:
            self._folder = temporary_folder(self)
        return self._folder


def temporary_folder(owner: object) -> Path:
    """Make a folder that is removed when `owner` dies, or with the process."""
    folder = tempfile.mkdtemp(prefix="onnxopt-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a small `.npz` into memory; SamplesError if that cannot be done."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                with archive.open(info) as member:
                    found[info.filename.removesuffix(".npy")] = npy.read_array(
                        member, allow_pickle=False
                    )
            return found
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` whose keys may be any text (those of `np.savez` are parameter names)."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """Read an `.npy`, or map it into memory; SamplesError if that cannot be done."""
    try:
        with path.open("rb") as file:
            array = npy.read_array(file, allow_pickle=False) if not mapped else None
        return array if array is not None else npy.open_memmap(path, mode="r")
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def release(array: np.ndarray) -> None:
    """Give back the memory of those pages of a mapped array that were read; it stays readable.

    Else all that was ever read of it counts as memory of this process.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def unreadable(path: Path, error: Exception, key: str = "") -> SamplesError:
    """Return the error for a file that cannot be read."""
    what = f"{path}, array {key!r}" if key else str(path)
    if "Object arrays" in str(error) or "Python objects" in str(error):
        return SamplesError(
            f"{what}: holds Python objects, which are never loaded: "
            "save numbers in a numeric dtype and texts as a unicode array"
        )
    reason = str(error) or type(error).__name__
    return SamplesError(f"{what}: cannot be read ({reason}): write it again with numpy.savez")


def _map(path: Path, info: zipfile.ZipInfo) -> np.ndarray | None:
    """Map a stored array where it lies in the archive; None where that is not possible."""
    with path.open("rb") as file:
        # The length of the local header is not in the central directory.
        file.seek(info.header_offset)
        name, extra = struct.unpack_from("<HH", file.read(30), 26)
        start = info.header_offset + 30 + name + extra
        file.seek(start)
        header = _header(file)
        offset = file.tell()
    if header is None:
        return None
    shape, fortran, dtype = header
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if offset - start + size != info.file_size:
        raise ValueError("the array is not as long as its header says")
    if not size:
        return np.empty(shape, dtype)  # mmap refuses an empty range
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype] | None:
    """Read the header of an `.npy`; None for versions that numpy reads with private code."""
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    return None

"""One look at all float constants of a file, for all rules that ask about their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxopt.model import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxopt.check.subject import Scope, Subject

TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

BLOCK = 1 << 22
"""Elements that are looked at together, so that memory stays small."""


@dataclass
class Floats:
    """What is in a float constant.

    Attributes:
        scope: The graph that holds it.
        name: Its name.
        dtype: float16, float32 or float64.
        size: Elements.
        nans: How many are NaN.
        infinite: How many are infinite.
        denormal: How many are not zero and smaller than the smallest normal number.
        most: The largest finite magnitude.
    """

    scope: Scope
    name: str
    dtype: np.dtype
    size: int
    nans: int = 0
    infinite: int = 0
    denormal: int = 0
    most: float = 0.0

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.scope.path + self.name


def scan(subject: Subject) -> Iterator[Floats]:
    """Look at all float constants; those whose data are missing or damaged are left out."""
    for scope, name, tensor in subject.constants():
        if tensor.data_type not in TYPES:
            continue
        values = subject.values(tensor)
        if values is None:
            continue
        found = Floats(scope, name, values.dtype, values.size)
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            _look(found, np.abs(flat[start : start + BLOCK]))
        if values.nbytes > BLOCK:
            files.release()
        yield found


def _look(found: Floats, block: np.ndarray) -> None:
    """Add a block of magnitudes."""
    if not np.isfinite(block.max()):
        found.nans += int(np.isnan(block).sum())
        found.infinite += int(np.isinf(block).sum())
        block = block[np.isfinite(block)]
    tiny = np.finfo(found.dtype).tiny
    found.denormal += int(np.count_nonzero(block < tiny)) - int(np.count_nonzero(block == 0))
    found.most = max(found.most, float(block.max(initial=0)))

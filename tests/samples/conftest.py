from __future__ import annotations

import numpy as np
import pytest

from onnxopt.model.interface import Port


@pytest.fixture
def image() -> Port:
    return Port("image", "tensor", np.dtype(np.float32), ("N", 3, 4, 5))


@pytest.fixture
def two() -> tuple[Port, ...]:
    """An input with a free batch, and ids of a free length."""
    return (
        Port("x", "tensor", np.dtype(np.float32), ("N", 3)),
        Port("ids", "tensor", np.dtype(np.int64), ("N", "T")),
    )

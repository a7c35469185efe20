"""The models that onnx ships or generates, as tests use them."""

from __future__ import annotations

import warnings
from pathlib import Path

from onnx.backend.test.loader import DATA_DIR, load_model_tests

FILES = sorted(Path(DATA_DIR).rglob("*.onnx"))


def node_cases():
    """All generated node tests; generating them makes numpy warn about overflows on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")

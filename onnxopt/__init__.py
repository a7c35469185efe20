"""Makes any ONNX model smaller and faster, and proves that it still does the same job.

The names below are the public face; each is imported when it is first used, so that
`onnxopt --help` waits for nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from onnxopt.api import Result, optimize
    from onnxopt.base import Context, Pass
    from onnxopt.errors import OnnxoptError
    from onnxopt.model import Model
    from onnxopt.rewrite import Rule
    from onnxopt.samples import Samples

__version__ = "0.1.0"

__all__ = [
    "Context",
    "Model",
    "OnnxoptError",
    "Pass",
    "Result",
    "Rule",
    "Samples",
    "load",
    "optimize",
]

_HOMES = {
    "Context": "onnxopt.base",
    "Model": "onnxopt.model",
    "OnnxoptError": "onnxopt.errors",
    "Pass": "onnxopt.base",
    "Result": "onnxopt.api",
    "Rule": "onnxopt.rewrite",
    "Samples": "onnxopt.samples",
    "optimize": "onnxopt.api",
}


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file; loading then saving loses nothing.

    Raises:
        ModelError: It is no ONNX model, is damaged, or refers to data outside its folder.
    """
    from onnxopt.model import Model

    return Model.load(path)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

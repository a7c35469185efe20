"""Models: read, held as graphs that passes edit, and written, with nothing lost.

The names below are imported when they are first used: `onnxopt check` looks at messages alone and
does not wait for the graphs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxopt.model.exported import Exported
    from onnxopt.model.interface import Port
    from onnxopt.model.model import Model

__all__ = ["Exported", "Model", "Port"]

_HOMES = {
    "Exported": "onnxopt.model.exported",
    "Model": "onnxopt.model.model",
    "Port": "onnxopt.model.interface",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

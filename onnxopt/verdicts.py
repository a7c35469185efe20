"""What was measured on this machine, remembered, so that a second run decides the same.

Timing is not deterministic; a decision that rests on it is made once for a key that names all it
depends on, and kept in a file of the user's cache. A file that cannot be read or written only means
that it is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxopt import runtime


def key(*parts: object) -> str:
    """Return a key for what depends on these parts, on both versions, and on the CPU."""
    text = json.dumps(
        [parts, version("onnxopt"), runtime.version(), platform.processor(), _flags()]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def recall(name: str) -> Any:
    """Return what was remembered under a key, None if nothing was."""
    return _all().get(name)


def remember(name: str, verdict: object) -> None:
    """Keep a verdict, of lists, dicts, numbers and text."""
    with contextlib.suppress(OSError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_all() | {name: verdict}, indent=1)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxopt" / "verdicts.json"


def _all() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _flags() -> str:
    """Return the features of this CPU, empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return ""

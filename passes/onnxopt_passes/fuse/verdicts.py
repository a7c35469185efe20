"""What was found by timing, remembered: a second run decides the same without timing.

A file `onnxopt/verdicts.json` in the user's cache folder. The key is a digest of onnxruntime's
version, the CPU's features, the number of threads, the rule, and what stands at each of its places
(op, type and shape).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt import runtime

if TYPE_CHECKING:
    from collections.abc import Sequence


def key(rule: str, sites: Sequence[str], threads: int) -> str:
    """Return the key of a verdict."""
    machine = [runtime.version(), platform.processor(), features(), threads]
    text = json.dumps([rule, sorted(sites), machine])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def features() -> str:
    """Return the features of this CPU, empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return ""


def known(key: str) -> dict[str, Any] | None:
    """Return the verdict that was found before, None if there is none."""
    found = _all().get(key)
    return found if isinstance(found, dict) else None


def remember(key: str, verdict: dict[str, Any]) -> None:
    """Add a verdict to the file; one that cannot be written is only timed again."""
    with contextlib.suppress(OSError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_all() | {key: verdict}, indent=1)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxopt" / "verdicts.json"


def _all() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""What it takes to look at a wrong edit: the model before, the model after, inputs that show it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.errors import OutputError
from onnxopt.model import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnxopt.model import Exported


def save(
    folder: Path,
    edit: str,
    before: Exported,
    after: Exported,
    feed: Mapping[str, Any] | None,
    text: str,
) -> Path:
    """Write `before.onnx`, `after.onnx`, `feed.npz` and `README.txt` into a folder of their own.

    Args:
        folder: Where repros are collected; made if it is not there.
        edit: The id of the wrong edit, which names the folder.
        before: The model before the pass.
        after: The model with the wrong edit alone, or with those that it needs.
        feed: Inputs that show the difference; None where it takes none.
        text: What is wrong, and how to get there.

    Raises:
        OutputError: It cannot be written there.
    """
    here = folder / re.sub(r"[^\w.@-]+", "_", edit)
    try:
        here.mkdir(parents=True, exist_ok=True)
        (here / "README.txt").write_text(f"{text}\n", "utf-8")
        arrays = {k: v for k, v in (feed or {}).items() if isinstance(v, np.ndarray)}
        if arrays:
            np.savez(here / "feed.npz", **arrays)  # type: ignore[arg-type]  # a name may be any
    except OSError as e:
        raise OutputError(f"cannot write the repro to {here}: {e.strerror}") from e
    for name, model in (("before.onnx", before), ("after.onnx", after)):
        files.write(here / name, model.proto, model.weights, external=False)
    return here

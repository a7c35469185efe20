"""A model whose weights are in a temporary file: for one that is only looked at, for long."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from onnxopt.model.model import Model


def mapped(model: Model) -> Model:
    """Return the same model, its weights mapped from a file that goes when it is collected.

    What is made of it must not keep its weights: they point to that file.

    Raises:
        OutputError: The file cannot be written, for want of room say.
    """
    path = Path(tempfile.mkdtemp(prefix="onnxopt-")) / "model.onnx"
    try:
        model.save(path)
        found = Model.load(path)
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, path.parent, ignore_errors=True)
    return found

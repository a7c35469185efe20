"""The models that onnx ships or generates, as tests use them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

FILES = sorted(Path(DATA_DIR).rglob("*.onnx"))

READERS = {
    "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
    "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
}


def node_cases():
    """All node tests; generating them makes numpy warn about overflows on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [c if c.model is not None else _stored(c) for c in load_model_tests(kind="node")]


def _stored(case):
    """Return a test of the older releases of onnx, which ship node tests as files."""
    model = onnx.load(Path(case.model_dir) / "model.onnx")
    return replace(case, model=model, data_sets=data_sets(case.model_dir, model))


def data_sets(model_dir: str, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    """Return the inputs and outputs that are stored beside a model."""
    return [
        (_read(folder, "input", model.graph.input), _read(folder, "output", model.graph.output))
        for folder in sorted(Path(model_dir).glob("test_data_set_*"))
    ]


def _read(folder: Path, stem: str, values: Any) -> list[Any]:
    arrays = []
    for i in range(len(list(folder.glob(f"{stem}_*.pb")))):
        kind = values[i].type.WhichOneof("value")
        message, read = READERS.get(kind, (onnx.TensorProto, numpy_helper.to_array))
        arrays.append(read(message.FromString((folder / f"{stem}_{i}.pb").read_bytes())))
    return arrays

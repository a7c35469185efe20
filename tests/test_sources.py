"""A model is taken from memory as exporters give it, and no framework is imported for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnxopt
from onnxopt.errors import ModelError

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "digits_lstm.onnx"


class Program:
    """What torch.onnx.export returns has this property, among others."""

    @property
    def model_proto(self) -> onnx.ModelProto:
        return onnx.load(MODEL)


def nodes(source: object) -> list[str]:
    result = onnxopt.optimize(source, "clean", timing=False)  # type: ignore[arg-type]
    return [n.op_type for n in result.model.graph.node]


def test_all_sources_give_the_same() -> None:
    data = MODEL.read_bytes()
    sources = [str(MODEL), onnx.load(MODEL), data, bytearray(data), Program(), onnxopt.load(MODEL)]
    found = [nodes(source) for source in (MODEL, *sources)]
    assert all(ops == found[0] for ops in found)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (MODEL.read_bytes()[:-100], "cut short"),
        (b"", "not valid"),
        (3, "a int is no model; give a path, bytes, a ModelProto or an ONNXProgram"),
        (None, "a NoneType is no model"),
    ],
)
def test_what_is_no_model_is_refused(source: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        nodes(source)


def test_no_framework_is_imported() -> None:
    frameworks = ("torch", "tensorflow", "sklearn", "skl2onnx", "keras", "paddle")
    code = (
        "import sys, onnxopt\n"
        f"onnxopt.optimize({str(MODEL)!r}, timing=False)\n"
        f"print([m for m in {frameworks} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

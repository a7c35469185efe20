from __future__ import annotations

import pytest

from onnxopt.cli.passes import described


def test_table(cli):
    page = cli("passes").page
    for name in ("clean", "fuse"):
        assert f"{name} exact -" in page


def test_one_pass(cli):
    page = cli("passes", "fuse").page
    assert page.startswith("fuse: ")
    assert "kind exact" in page
    assert "up to rounding" in page
    assert "runs after clean" in page
    assert "onnxopt run model.onnx --passes fuse" in page


@pytest.mark.usefixtures("lossy")
def test_options_come_from_the_docstring(cli):
    page = cli("passes", "scale").page
    assert "scale: Scale all weights, which is no good. Some more about it. option" in page
    assert "factor float 0.5 By how much; 1 is harmless." in page
    assert "kinds tuple[str, ...] a+b What to scale." in page
    assert "--max-drop" in page
    assert "Attributes" not in page


@pytest.mark.usefixtures("lossy")
def test_a_pass_without_docstring(cli):
    page = cli("passes", "rude").page
    assert "Rude(" not in page
    assert "needs calibration samples" in page
    assert "scale lossy -" in cli("passes").page


def test_described():
    text, fields = described(
        "Do it.\n\nMore.\n\nAttributes:\n    a: One\n        two.\n    b: Three."
    )
    assert text == "Do it.\n\nMore."
    assert fields == {"a": "One two.", "b": "Three."}
    assert described("Do it.") == ("Do it.", {})

"""Every case file under tests/cases holds what a pass promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxopt.testing import check_case

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize(
    "path", sorted(CASES.rglob("*.txt")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_case(path: Path) -> None:
    check_case(path.read_text())

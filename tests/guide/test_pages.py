"""Each page of the guide does what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from guide import pages

from onnxopt.check import settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: p.relative_to(pages.DOCS).as_posix())
def test_a_page_does_what_it_says(path: Path) -> None:
    text = path.read_text()
    missing = pages.missing(text)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install -e '.[export]'")
    assert pages.refreshed(text) == text, "run python tests/guide/pages.py"


def test_every_page_is_in_the_index() -> None:
    index = (pages.DOCS / "README.md").read_text() + (pages.DOCS / "export/README.md").read_text()
    for path in pages.PAGES:
        inside = path.relative_to(pages.DOCS).as_posix().removeprefix("export/")
        assert f"({inside})" in index or path.name == "README.md", path


def test_the_settings_shown_are_settings(tmp_path: Path) -> None:
    page = (pages.DOCS / "checking-models.md").read_text()
    (block,) = [b for b in pages.blocks(page) if b.kind == "toml"]
    (tmp_path / "pyproject.toml").write_text(block.text)
    found = settings.read(tmp_path / "pyproject.toml")
    assert found.budgets.max_bytes == 5_000_000
    assert found.budgets_for(tmp_path / "detector.onnx").max_latency_ratio == 1.1

from __future__ import annotations

from pathlib import Path

import pytest

from onnxopt.check import rules
from onnxopt.check.settings import count, find, read
from onnxopt.errors import SpecError

TABLE = """
[tool.onnxopt]
select = ["OPT0", "OPT5"]
ignore = ["OPT003"]
runtime = true
max-bytes = "1.5 MB"
max-params = 300000
max-latency-ratio = 1.1
baseline = "models/old.onnx"
banned-ops = ["NonZero"]

[tool.onnxopt.per-file-ignores]
"legacy/*.onnx" = ["OPT5"]

[tool.onnxopt.per-file-budgets."big.onnx"]
max-bytes = "20 MB"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_a_table_is_read(tmp_path: Path) -> None:
    found = read(write(tmp_path, TABLE))
    assert (found.select, found.ignore, found.runtime) == (("OPT0", "OPT5"), ("OPT003",), True)
    assert (found.budgets.max_bytes, found.budgets.max_params) == (1_500_000, 300_000)
    assert found.budgets.baseline == str(tmp_path / "models/old.onnx")
    assert found.budgets_for(tmp_path / "a" / "big.onnx").max_bytes == 20_000_000
    assert found.budgets_for(tmp_path / "a.onnx").max_bytes == 1_500_000
    assert found.ignored(tmp_path / "legacy" / "a.onnx") == ("OPT003", "OPT5")
    assert found.ignored(tmp_path / "a.onnx") == ("OPT003",)


def test_the_nearest_table_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    path = write(tmp_path, TABLE)
    write(inner.parent, "[project]\nname = 'other'\n")
    assert find(inner) == path
    assert find(Path("/")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("maxbytes = 5", "did you mean 'max-bytes'"),
        ("max-bytes = 'five'", "must be a number such as"),
        ("max-bytes = -1", "must be a number such as"),
        ("max-bytes = true", "must be a number such as"),
        ("select = 'OPT0'", "must be a list of texts"),
        ("runtime = 1", "must be true or false"),
        ("per-file-ignores = ['a']", "must be a table"),
        ("per-file-budgets = {'a' = {maxbytes = 1}}", "there is no budget 'maxbytes'"),
        ("max-latency-ratio = 0", "must be a number above 0"),
        ("baseline = 1", "must be the path of a model"),
        ("a = [", "is not TOML"),
    ],
)
def test_a_wrong_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said.replace("[", r"\[")):
        read(write(tmp_path, f"[tool.onnxopt]\n{text}\n"))


def test_numbers_have_units() -> None:
    assert count("5MB", "x") == count("5 MB", "x") == count("5_000_000", "x") == 5_000_000
    assert (count("1.5M", "x"), count("2 kB", "x"), count(7, "x")) == (1_500_000, 2000, 7)


def test_a_longer_code_outweighs_a_shorter_one() -> None:
    def chosen(select: tuple[str, ...], ignore: tuple[str, ...]) -> set[str]:
        return {r.code for r in rules.chosen(select, ignore, runtime=False)}

    everything = chosen((), ())
    assert everything == chosen(("ALL",), ())
    assert "OPT004" not in everything
    assert chosen(("OPT2",), ()) == {c for c in everything if c.startswith("OPT2")}
    assert chosen(("OPT203",), ("OPT2",)) == {"OPT203"}
    assert chosen(("OPT2",), ("OPT203",)) == chosen(("OPT2",), ()) - {"OPT203"}
    with pytest.raises(SpecError, match="begins with 'OPT9'"):
        rules.verify(("OPT9",), "ignore")
    with pytest.raises(SpecError, match="did you mean OPT2"):
        rules.rule("OPT23")

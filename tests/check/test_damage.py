"""A check never falls over, whatever is in a file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from onnxopt.check import Settings, check, finding, rules
from onnxopt.check.finding import Level, Rule

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_findings(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    data = bytearray((MODELS / "digits_lstm.onnx").read_bytes())
    head = 4000  # the nodes come first; damage to weights is only other weights
    for _ in range(rng.choice((1, 3, 20))):
        data[rng.randrange(head)] = rng.randrange(256)
    if seed % 4 == 0:
        data = data[: rng.randrange(len(data))]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    found = check(path, Settings())
    assert "OPT000" not in {f.rule.code for f in found}, found
    assert all(f.message and "\n" not in f.message for f in found)


def test_a_rule_that_fails_is_a_finding_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: object) -> None:
        """A rule that is broken."""
        raise KeyError("who")

    rule = Rule("OPT299", Level.NOTE, broken)  # type: ignore[arg-type]
    monkeypatch.setattr(rules, "RULES", (rule, *rules.RULES))
    found = check(MODELS / "digits_lstm.onnx", Settings())
    assert found[0].rule.code == "OPT000"
    assert found[0].fails
    assert found[0].message == "rule OPT299 fails on this model: KeyError: 'who'"
    assert "OPT202" in {f.rule.code for f in found}


def test_many_findings_of_a_kind_become_one() -> None:
    def names(count: int) -> list[tuple[str, str]]:
        return [(str(i), "said") for i in range(count)]

    assert len(list(finding.grouped(names(3), "things"))) == 3
    assert list(finding.grouped(names(9), "things")) == [("0", "9 things: 0, 1, 2, ...")]

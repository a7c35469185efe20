from __future__ import annotations

import pytest

from onnxopt.cli import tables, terminal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_112_828, "1.11 MB"),
        (999_999, "1.00 MB"), (99_950, "100 kB"), (12_345, "12.3 kB"), (3e9, "3.00 GB"),
    ],
)  # fmt: skip
def test_bytes(value, text):
    assert tables.nbytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (9408, "9,408"),
        (271_117, "271 k"),
        (40.8e6, "40.8 M"),
        (2e9, "2.00 G"),
    ],
)
def test_number(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (4.2, "4.20 s"), (0.00231, "2.31 ms"), (31.2e-6, "31.2 us"), (0.9999, "1.00 s")],
)
def test_seconds(value, text):
    assert tables.seconds(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 88, "-12.0%"),
        (5, 5, "same"),
        (0, 3, "new"),
        (None, 3, "-"),
        (10**6, 10**6 - 1, "-0.0%"),
    ],
)
def test_change(before, after, text):
    assert tables.change(before, after) == text


def test_drift():
    assert [tables.drift(v) for v in (None, 0.0, 2.14e-7)] == ["-", "0", "2.1e-07"]


def test_long_lists_are_cut():
    assert tables.first(["a", "b", "c", "d"], 3) == ["a", "b", "and 2 more; --json lists them all"]
    assert tables.first(["a", "b", "c"], 3) == ["a", "b", "c"]


def test_control_characters_are_spelled_out():
    assert terminal.plain(" a\n  b\x1b[1m\t\u00e9 ") == "a b\\x1b[1m\\t\u00e9"


def test_no_bar_without_a_terminal(capsys):
    with terminal.Bar() as bar:
        bar("reading")
        bar("reading", 0.5)
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with terminal.Bar() as bar:
        for what, done in (("reading", 0.0), ("clean", 0.5), ("clean", 1.0), ("timing", 0.0)):
            bar(what, done)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading" in shown.err
    assert "timing" in shown.err

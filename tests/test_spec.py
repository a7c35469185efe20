"""Text to passes and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt import Context, Model, Pass, registry, spec
from onnxopt.errors import PassError, SpecError, UnknownPassError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Sample(Pass):
    """One option of every kind."""

    name: ClassVar[str] = "sample"
    ratio: float = 0.5
    count: int = 1
    mode: Literal["static", "dynamic", 8] = "static"
    flag: bool = False
    text: str = ""
    limit: float | None = None
    globs: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)

    def run(self, model: Model, ctx: Context) -> int:
        return 0


@dataclass(frozen=True)
class Needs(Pass):
    """Requires others."""

    name: ClassVar[str] = "needs"
    requires: ClassVar[tuple[str, ...]] = ("fuse",)

    def run(self, model: Model, ctx: Context) -> int:
        return 0


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda n: Sample if n == "sample" else load(n))


words = st.text(st.sampled_from("abcXYZ/*._-0"), max_size=8)


@given(
    st.builds(
        Sample,
        ratio=st.floats(allow_nan=False),
        count=st.integers(),
        mode=st.sampled_from(["static", "dynamic", 8]),
        flag=st.booleans(),
        text=words,
        limit=st.none() | st.floats(allow_nan=False),
        globs=st.lists(words.filter(bool), max_size=3).map(tuple),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
    )
)
def test_render_then_parse_gives_the_same_pass(item: Sample) -> None:
    text = spec.render(item)
    _, *options = text.split(":")
    given_options = dict(option.split("=", 1) for option in options)
    assert spec.build(Sample, given_options) == item


def test_defaults_are_left_out() -> None:
    assert spec.render(Sample()) == "sample"
    assert spec.render(Sample(ratio=0.3, globs=("a*", "b"))) == "sample:ratio=0.3:globs=a*+b"


def test_a_pipeline() -> None:
    assert spec.parse("sample:count=3 , clean") == (Sample(count=3), registry.load("clean")())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pass is given"),
        ("clean,,fuse", "empty place"),
        ("claen", "did you mean 'clean'"),
        ("zzz", "there are: "),
        ("sample:rato=1", "did you mean 'ratio'"),
        ("sample:ratio", "has no value"),
        ("sample:ratio=1:ratio=2", "given twice"),
        ("sample:ratio=much", "must be a number"),
        ("sample:count=1.5", "must be a whole number"),
        ("sample:mode=odd", "must be one of static, dynamic, 8"),
        ("sample:flag=maybe", "must be one of true"),
        ("sample:limit=x", "must be a number"),
        ("@nowhere.toml", "cannot be read"),
    ],
)
def test_wrong_text_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec.parse(text)


def test_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('passes = "sample:count=2"')
    assert spec.parse(f"@{path}") == (Sample(count=2),)
    path.write_text('[[pass]]\nname = "sample"\nflag = true\nglobs = ["a", "b"]\nratio = 0.25')
    assert spec.parse(f"@{path}") == (Sample(flag=True, globs=("a", "b"), ratio=0.25),)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = ", "is not TOML"), ("x = 1", "neither passes"), ("[[pass]]\nratio = 1", "has no name")],
)
def test_wrong_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(SpecError, match=message):
        spec.parse(f"@{tmp_path / 'r.toml'}")


def test_required_passes_are_put_in_once_and_in_order() -> None:
    assert [p.name for p in spec.complete((Needs(),))] == ["clean", "fuse", "needs"]
    clean = registry.load("clean")()
    assert [p.name for p in spec.complete((clean, Needs()))] == ["clean", "fuse", "needs"]


def test_unknown_passes_have_their_own_error() -> None:
    with pytest.raises(UnknownPassError):
        registry.load("nope")


def test_an_entry_point_that_is_no_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entry = registry.EntryPoint("odd", "onnxopt.errors:InputError", registry.GROUP)
    monkeypatch.setattr(registry, "declared", lambda: [entry])
    with pytest.raises(PassError, match="is not a Pass named 'odd'"):
        registry.load("odd")


def test_two_passes_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entries = [registry.EntryPoint("a", f"m{i}:A", registry.GROUP) for i in range(2)]
    monkeypatch.setattr(registry, "declared", lambda: entries)
    with pytest.raises(PassError, match="two passes are named 'a'"):
        registry.available()


def test_an_entry_point_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entry = registry.EntryPoint("gone", "no_such_module:A", registry.GROUP)
    monkeypatch.setattr(registry, "declared", lambda: [entry])
    with pytest.raises(PassError, match=r"pass 'gone' of .* cannot be imported"):
        registry.load("gone")


def test_a_comma_before_an_option_is_explained() -> None:
    with pytest.raises(UnknownPassError, match="options follow their pass behind colons"):
        spec.parse("clean,fold_limit=3")

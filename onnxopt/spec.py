"""Text to passes and back: `fuse,prune:ratio=0.5:criterion=l2`.

Options are the fields of a pass, converted by their annotations: bool, int, float, str, tuples of
those (values separated by `+`), `Literal`, and any of them or None. A value may have colons in it
(`pattern=2:4`, `criterion=module:function`). `render` gives the text that
`parse` turns into the same passes.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxopt import registry
from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from onnxopt.base import Pass

BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(text: str) -> tuple[Pass, ...]:
    """Read a pipeline; `@file.toml` reads it from a recipe.

    A recipe is a TOML file with `passes = "clean,fuse"`, or with one `[[pass]]` table a pass:
    its `name`, and its options as keys.

    Raises:
        SpecError: An unknown pass or option, or a value of the wrong type.
    """
    if text.startswith("@"):
        return _recipe(Path(text[1:]))
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise SpecError("no pass is given; try --passes clean,fuse")
    if not all(parts):
        raise SpecError(f"{text!r} has an empty place between commas")
    return tuple(_one(part) for part in parts)


def complete(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """Put in the passes that others require and that do not come before them."""
    done: list[Pass] = []

    def add(item: Pass) -> None:
        for name in item.requires:
            if name not in [p.name for p in done]:
                add(registry.load(name)())
        done.append(item)

    for item in passes:
        add(item)
    return tuple(done)


def render(item: Pass) -> str:
    """Return the text that `parse` turns into the same pass; defaults are left out."""
    words = [item.name]
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            words.append(f"{field.name}={_text(value)}")
    return ":".join(words)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    return "none" if value is None else str(value)


def _one(text: str) -> Pass:
    name, *options = text.split(":")
    cls = registry.load(name)
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and given and not _near(cls, option):
            given[list(given)[-1]] += f":{option}"  # a value with a colon: pattern=2:4
            continue
        if not equals:
            raise SpecError(f"{name}: option {option!r} has no value; write {option}=VALUE")
        if key in given:
            raise SpecError(f"{name}: option {key!r} is given twice")
        given[key] = value
    return build(cls, given)


def _near(cls: type[Pass], option: str) -> bool:
    """Whether a text is, or looks like, the name of an option."""
    return bool(get_close_matches(option, [f.name for f in dataclasses.fields(cls)], n=1))


def build(cls: type[Pass], given: dict[str, Any]) -> Pass:
    """Make a pass from the text of its options, or from values of a recipe.

    Raises:
        SpecError: An option is unknown, missing, or of the wrong type.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in names:
            near = get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names) or 'none'}"
            raise SpecError(f"{cls.name} has no option {key!r}; {hint}")
        if isinstance(value, (list, tuple)):
            value = "+".join(map(_text, value))
        try:
            values[key] = _convert(_text(value), hints[key])
        except ValueError as e:
            raise SpecError(f"{cls.name}:{key}={_text(value)}: {e}") from e
    try:
        return cls(**values)
    except (TypeError, ValueError) as e:
        raise SpecError(f"{cls.name}: {e}") from e


def _convert(text: str, hint: Any) -> Any:
    """Convert text to an annotated type; ValueError says what would be right."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text == "none" and type(None) in args:
            return None
        return _first(text, [a for a in args if a is not type(None)])
    if origin is Literal:
        return _choice({str(a): a for a in args}, text)
    if origin is tuple:
        return tuple(_convert(t, args[0]) for t in text.split("+")) if text else ()
    if hint is bool:
        return _choice(BOOLS, text.lower())
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"must be {kind}") from None
    return text


def _choice(choices: dict[str, Any], text: str) -> Any:
    if text not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return choices[text]


def _first(text: str, hints: list[Any]) -> Any:
    """Convert to the first type that takes the text."""
    problem = ValueError("no type takes this")
    for hint in hints:
        try:
            return _convert(text, hint)
        except ValueError as e:
            problem = e
    raise problem


def _recipe(path: Path) -> tuple[Pass, ...]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        recipe = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise SpecError(f"recipe {path} cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SpecError(f"recipe {path} is not TOML: {e}") from e
    if isinstance(recipe.get("passes"), str):
        return parse(recipe["passes"])
    tables = recipe.get("pass")
    if not isinstance(tables, list) or not tables:
        raise SpecError(f'recipe {path} has neither passes = "..." nor a [[pass]] table')
    passes = []
    for table in tables:
        options = {k: v for k, v in table.items() if k != "name"}
        if "name" not in table:
            raise SpecError(f"recipe {path}: a [[pass]] table has no name")
        passes.append(build(registry.load(table["name"]), options))
    return tuple(passes)

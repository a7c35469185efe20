"""`onnxopt passes`: what is installed, and what each pass takes and promises."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

import click

from onnxopt.cli import options, tables, terminal
from onnxopt.errors import OnnxoptError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from rich.text import Text

    from onnxopt.base import Pass


@click.command(
    "passes",
    epilog=options.examples(
        "onnxopt passes",
        "onnxopt passes fuse",
    ),
)
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the installed passes; with NAME, tell all about one."""
    from onnxopt import registry

    if name is None:
        rows = [_row(n, entry) for n, entry in registry.available().items()]
        terminal.show(
            tables.table("pass", "kind", "calib", "what it does", "from", rows=rows)
            if rows
            else "no pass is installed"
        )
    else:
        _show_one(registry.load(name))


def _row(name: str, entry: EntryPoint) -> list[str]:
    from onnxopt import registry

    owner = entry.dist.name if entry.dist else tables.UNKNOWN
    try:
        item = registry.load(name)
    except OnnxoptError as e:
        return [name, tables.UNKNOWN, tables.UNKNOWN, str(e), owner]
    needs = "needed" if item.calibrated else tables.UNKNOWN
    summary = _text(item).split("\n", 1)[0]
    return [name, "exact" if item.exact else "lossy", needs, summary, owner]


def _show_one(item: type[Pass]) -> None:
    said = _text(item)
    about, fields = described(said)
    documented = {
        "kind": "exact" if item.exact else "lossy",
        "promises": _guarantee(item),
        "runs after": ", ".join(item.requires),
        "needs": "calibration samples: --calib PATH" if item.calibrated else "",
        "example": f"onnxopt run model.onnx --passes {_example(item)}"
        + ("" if item.exact else " --calib data.npz"),
    }
    rows = [
        [field.name, _annotation(field), _default(field), fields.get(field.name, "")]
        for field in dataclasses.fields(item)
    ]
    terminal.show(
        *_paragraphs(f"{item.name}: {about}"),
        tables.table("option", "type", "default", "what", rows=rows) if rows else "no options",
        tables.facts({k: v for k, v in documented.items() if v}),
    )


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and what its section `Attributes:` says of each field."""
    text, _, section = docstring.partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == 0:
            break
        if indent == 4 and ":" in line:
            name, _, rest = line.strip().partition(":")
            found[name] = rest.strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return text.strip(), found


def _text(item: type[Pass]) -> str:
    """Return the docstring, without the signature that dataclasses put where there is none."""
    found = inspect.cleandoc(item.__doc__ or "")
    return "" if found.startswith(f"{item.__name__}(") else found


def _paragraphs(text: str) -> list[Text]:
    """Return paragraphs to be wrapped anew; lists and code keep their lines."""
    from rich.text import Text

    found = []
    for part in filter(str.strip, text.split("\n\n")):
        kept = any(line.startswith(("* ", "- ", " ")) for line in part.splitlines())
        found.append(Text(part if kept else terminal.plain(part)))
    return found


def _guarantee(item: type[Pass]) -> str:
    if item.exact:
        return (
            "outputs equal those of the source up to rounding, on every sample compared;"
            " an edit that breaks this is found and undone"
        )
    return (
        "the score on held-out samples falls by no more than --max-drop; otherwise nothing is"
        " written"
    )


def _annotation(field: dataclasses.Field[object]) -> str:
    kind = field.type
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _default(field: dataclasses.Field[object]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "required" if value is dataclasses.MISSING else _shown(value)


def _shown(value: object) -> str:
    """Return a value as pipeline text spells it."""
    if isinstance(value, tuple):
        return "+".join(map(_shown, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _example(item: type[Pass]) -> str:
    """Return the pass with the first option that is more than absent by default."""
    shown = next((f for f in dataclasses.fields(item) if f.default is not None), None)
    return item.name if shown is None else f"{item.name}:{shown.name}={_default(shown)}"

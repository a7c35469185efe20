"""`onnxopt explain`: which rewrites a pass almost made, and what stopped each."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

import click

from onnxopt.cli import options, tables, terminal

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from onnxopt.explain import Miss

SCHEMA_VERSION = 1


@click.command(
    "explain",
    epilog=options.examples(
        "onnxopt explain model.onnx",
        "onnxopt explain model.onnx --pass clean --node '*attention*'",
    ),
)
@click.argument("model", type=options.FILE)
@click.option("--pass", "text", default="fuse", show_default=True, help="The pass, with options.")
@click.option("--node", default="*", help="Only nodes whose name matches this pattern.")
@options.target
@options.as_json
def command(model: Path, text: str, node: str, target: str, as_json: bool) -> None:
    """Show what a pass almost did to MODEL, and why it did not.

    The pass is run on a copy, after those that it requires, and not proven. A line names the
    rule, the node it looked at, and what would have to be different.
    """
    from onnxopt import explain, spec

    (item,) = spec.parse(text)[-1:]
    with terminal.Bar() as bar:
        bar(spec.render(item))
        made, found = explain.misses(item, options.load(model), target)
    found = [m for m in found if fnmatch(m.node, node)]
    made = [m for m in made if fnmatch(m.partition("@")[2], node)]
    if as_json:
        terminal.show_json(
            {
                "schema_version": SCHEMA_VERSION,
                "pass": spec.render(item),
                "made": made,
                "missed": [{"rule": m.rule, "node": m.node, "reason": m.reason} for m in found],
            }
        )
        return
    terminal.show(*_page(spec.render(item), made, found))


def _page(name: str, made: list[str], found: list[Miss]) -> list[RenderableType]:
    count = tables.plural(len(made), "rewrite")
    if not found:
        return [f"{name} makes {count}; no rule stands back from a near miss."]
    rows = [(rule, _listed(nodes), reason) for (rule, reason), nodes in _alike(found).items()]
    times = tables.plural(len(found), "near miss", "near misses")
    return [
        tables.table("rule", "node", "stopped by", rows=rows),
        f"{name} makes {count}, and stands back from {times}.",
    ]


def _alike(found: list[Miss]) -> dict[tuple[str, str], list[str]]:
    """Return the nodes of near misses by rule and reason, in order."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for miss in found:
        nodes.setdefault((miss.rule, miss.reason), []).append(miss.node)
    return nodes


def _listed(nodes: list[str]) -> str:
    """Name the first node, and say how many others there are."""
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} and {len(nodes) - 1} more"

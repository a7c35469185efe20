"""`onnxopt inspect`: what is in a model, and what each pass would find there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, reports, tables, terminal
from onnxopt.errors import SamplesError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from onnxopt.model import Exported, Port

    Facts = dict[str, Any]

SCHEMA_VERSION = 1

LARGEST = 10
"""Tensors listed."""

MOST_OPS = 24
"""Kinds of ops listed as text."""


@click.command(
    "inspect",
    epilog=options.examples(
        "onnxopt inspect model.onnx",
        "onnxopt inspect model.onnx --groups",
        "onnxopt inspect model.onnx --sensitivity --calib data.npz",
        "onnxopt inspect model.onnx --json | jq .op_histogram",
    ),
)
@click.argument("model", type=options.FILE)
@options.calib
@options.target
@click.option("--html", type=options.FILE, metavar="FILE", help="Write a page to look at there.")
@click.option("--groups", is_flag=True, help="Show what prune can cut, and why it cannot.")
@click.option(
    "--sensitivity", is_flag=True,
    help="Show what each node costs and gives in integers; needs --calib.",
)  # fmt: skip
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: Path,
    calib: str | None,
    preprocess: str | None,
    target: str,
    html: Path | None,
    groups: bool,
    sensitivity: bool,
    as_json: bool,
) -> None:
    """Show what is in MODEL, and what each pass would find there.

    It works on models that onnxruntime cannot run too, and writes nothing. Passes are tried on a
    copy, without a proof. Sizes of dynamic dimensions, for MACs, come from a sample of --calib,
    else from a drawn input.
    """
    if groups and sensitivity:
        raise click.UsageError("--groups and --sensitivity exclude each other", ctx)
    if sensitivity and calib is None:
        raise click.UsageError("--sensitivity needs samples: give them with --calib", ctx)
    if groups or sensitivity:
        found = _survey(model, "prune" if groups else "quant", calib, preprocess, target)
        _show_survey(found, as_json)
        return
    if html is not None:
        reports.check(html, model)
    with terminal.Bar() as bar:
        found = facts(model, calib, preprocess, target, bar)
    if html is not None:
        _write_page(html, model, found)
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show(*_page(found), f"wrote {html}" if html is not None else None)


def _write_page(html: Path, model: Path, found: Facts) -> None:
    from onnxopt import outline
    from onnxopt.cli.page import render_inspect

    nodes = outline.nodes(options.load(model).export())
    reports.write_text(html, render_inspect({**found, "node_list": nodes}))


def _survey(
    path: Path, name: str, calib: str | None, preprocess: str | None, target: str
) -> dict[str, Any]:
    """Return what a pass sees in a model, after the passes that it requires."""
    from onnxopt import registry
    from onnxopt.base import Context
    from onnxopt.errors import ModelError
    from onnxopt.runtime import CannotRun

    with terminal.Bar() as bar:
        bar("reading")
        item, model = registry.load(name)(), options.load(path)
        samples = None
        if calib is not None:
            samples = options.samples(model.export(), calib, preprocess, seed=0)
        bar(name)
        context = Context(samples, target, progress=lambda done: bar(name, done))
        for required in item.requires:
            registry.load(required)().run(model, context)
        try:
            found = item.survey(model, context)
        except CannotRun as e:
            raise ModelError(f"{path}: onnxruntime cannot run it: {e}") from e
    return {"schema_version": SCHEMA_VERSION, "path": str(path), **found}


def _show_survey(found: dict[str, Any], as_json: bool) -> None:
    from onnxopt.cli import grouping, sensitivities

    if as_json:
        terminal.show_json(found)
    else:
        terminal.show(*(grouping if "groups" in found else sensitivities).page(found))


def facts(
    path: Path, calib: str | None, preprocess: str | None, target: str, bar: terminal.Bar
) -> Facts:
    """Return all that is known of a model, as `--json` prints it."""
    from onnxopt import cost, forecast
    from onnxopt.cli import holdings

    bar("reading")
    model = options.load(path)
    exported = model.export()
    feed = _feed(exported, calib, preprocess)
    bar("counting")
    counts = cost.measure(exported, feed)
    tensors = sorted(holdings.held(exported), key=lambda t: -t.nbytes)
    proto = exported.proto
    opsets = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    return {
        "schema_version": SCHEMA_VERSION,
        "path": str(path),
        "bytes": exported.nbytes,
        "weight_bytes": sum(t.nbytes for t in tensors),
        "ir_version": proto.ir_version,
        "opset": opsets.get("ai.onnx"),
        "opsets": opsets,
        "producer": " ".join(filter(None, (proto.producer_name, proto.producer_version))) or None,
        "functions": len(proto.functions),
        "graphs": sum(1 for _ in model.graphs()),
        "inputs": [port_facts(p) for p in exported.inputs],
        "outputs": [port_facts(p) for p in exported.outputs],
        "nodes": counts.nodes,
        "params": counts.params,
        "macs": counts.macs,
        "macs_for": _fed(exported, feed),
        "op_histogram": counts.ops,
        "tensors": len(tensors),
        "largest": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes}
            for t in tensors[:LARGEST]
        ],
        "passes": [dict(vars(f)) for f in forecast.forecasts(model, target, bar)],
    }


def port_facts(port: Port) -> Facts:
    """Return an input or output as JSON has it; a dimension is a size, a symbol or null."""
    return {
        "name": port.name,
        "kind": port.kind,
        "dtype": None if port.dtype is None else str(port.dtype),
        "shape": None if port.shape is None else list(port.shape),
        "required": port.required,
        "text": str(port),
    }


def _feed(exported: Exported, calib: str | None, preprocess: str | None) -> Facts | None:
    """Return one set of inputs for the sizes of dimensions; None where none can be drawn."""
    try:
        return next(options.samples(exported, calib, preprocess, seed=0).feeds(), None)
    except SamplesError:
        if calib is not None:
            raise
        return None


def _fed(exported: Exported, feed: Facts | None) -> dict[str, list[int]] | None:
    """Return the sizes that MACs were counted for; None if the model leaves no choice."""
    import numpy as np

    dynamic = [
        p.name
        for p in exported.inputs
        if p.shape is None or not all(isinstance(d, int) for d in p.shape)
    ]
    if feed is None or not dynamic:
        return None
    return {name: list(np.shape(feed[name])) for name in dynamic if name in feed}


def _page(found: Facts) -> list[RenderableType | None]:
    largest = [
        [t["name"], t["dtype"], tables.shape(t["shape"]), tables.nbytes(t["bytes"])]
        for t in found["largest"]
    ]
    columns = ("largest tensors", "type", ">shape", ">size")
    return [
        tables.facts(_summary(found)),
        _histogram(found["op_histogram"]),
        tables.table(*columns, rows=largest) if largest else None,
        _passes(found["passes"]),
    ]


def _summary(found: Facts) -> dict[str, str | list[str]]:
    opsets = [f"{d} {v}" for d, v in found["opsets"].items() if d != "ai.onnx"]
    made = f", by {found['producer']}" if found["producer"] else ""
    parts = f" in {found['graphs']} graphs" if found["graphs"] > 1 else ""
    held = tables.plural(found["tensors"], "tensor")
    return {
        "model": found["path"],
        "format": f"opset {found['opset']}, IR {found['ir_version']}{made}",
        "domains": ", ".join(opsets),
        "inputs": [_port(p) for p in found["inputs"]],
        "outputs": [_port(p) for p in found["outputs"]],
        "size": f"{tables.nbytes(found['bytes'])},"
        f" of it {tables.nbytes(found['weight_bytes'])} weights",
        "nodes": tables.number(found["nodes"]) + parts,
        "parameters": f"{tables.number(found['params'])} in {held}",
        "MACs": _macs(found),
    }


def _macs(found: Facts) -> str:
    if found["macs"] is None:
        return "unknown: --calib PATH may give the shapes that they depend on"
    sizes = ", ".join(f"{n} {tables.shape(s)}" for n, s in (found["macs_for"] or {}).items())
    return tables.number(found["macs"]) + (f" for {sizes}" if sizes else "")


def _port(port: Facts) -> str:
    text: str = port["text"]
    return text if port["required"] else f"{text}, has a default"


def _histogram(ops: dict[str, int]) -> RenderableType | None:
    """Return the ops by how often they occur, in columns."""
    from rich.columns import Columns

    ranked = sorted(ops.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{count:>5,}  {terminal.plain(op)}" for op, count in ranked[:MOST_OPS]]
    if len(ranked) > MOST_OPS:
        rest = sum(count for _, count in ranked[MOST_OPS:])
        names.append(f"{rest:>5,}  of {len(ranked) - MOST_OPS} more ops")
    return Columns(names, padding=(0, 2), column_first=True) if names else None


def _passes(found: list[Facts]) -> RenderableType:
    rows = []
    for item in found:
        said = item["reason"] or tables.pieces(list(item["rules"].items())[:4])
        if len(item["rules"]) > 4:
            said += ", ..."
        delta = tables.UNKNOWN if item["nodes"] is None else tables.signed(item["nodes"])
        rows.append([item["name"], tables.number(item["edits"]), delta, said or "nothing to do"])
    return tables.table("pass", ">edits", ">nodes", "what it would do, unproven", rows=rows)

"""`onnxopt diff`: are two models the same in structure, and in numbers?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli import options, terminal
from onnxopt.cli.diff_text import page

if TYPE_CHECKING:
    from pathlib import Path

    from onnxopt.cli.holdings import Held
    from onnxopt.cost import Cost
    from onnxopt.model import Exported
    from onnxopt.samples import Samples

    Facts = dict[str, Any]

SCHEMA_VERSION = 1

LISTED = 20
"""Tensors listed of each kind of change, the largest first."""


@click.command(
    "diff",
    epilog=options.examples(
        "onnxopt diff model.onnx model.opt.onnx --calib data.npz",
    ),
)
@click.argument("a", type=options.FILE)
@click.argument("b", type=options.FILE)
@options.calib
@options.threads
@options.seed
@options.custom_ops
@options.as_json
def command(
    a: Path,
    b: Path,
    calib: str | None,
    preprocess: str | None,
    threads: int,
    seed: int,
    custom_ops: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compare A and B: interface, structure, weights and outputs.

    Exit code 0: B can take the place of A: same interface, and outputs equal up to rounding on all
    samples compared. Exit code 1: it cannot, or the outputs could not be compared. Other ops and
    other weights alone are no difference.
    """
    with terminal.Bar() as bar:
        found = _facts((a, b), calib, preprocess, seed, (threads, custom_ops), bar)
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show(*page(found))
    return 0 if found["same"] else 1


def _facts(
    paths: tuple[Path, Path],
    calib: str | None,
    preprocess: str | None,
    seed: int,
    runtime: tuple[int, tuple[str, ...]],
    bar: terminal.Bar,
) -> Facts:
    from onnxopt import cost
    from onnxopt.cli import numbers
    from onnxopt.errors import SamplesError
    from onnxopt.runtime import Settings

    bar("reading")
    a, b = (options.load(path).export() for path in paths)
    samples: Samples | None = None
    result = numbers.Numbers()
    try:
        samples = options.samples(a, calib, preprocess, seed)
    except SamplesError as e:
        if calib is not None:
            raise
        result.reason = str(e)
    feed = None if samples is None else next(samples.feeds(), None)
    bar("counting")
    costs = [cost.measure(m, feed) for m in (a, b)]
    structure = _structure(a, b)
    if samples is not None:
        result = numbers.measure(a, b, samples, Settings(False, *runtime), bar)
    interface = _interface(a, b)
    return {
        "schema_version": SCHEMA_VERSION,
        "same": not interface and result.same,
        "a": _model(paths[0], a, costs[0]),
        "b": _model(paths[1], b, costs[1]),
        "interface": interface,
        "ops": _changed(costs[0].ops, costs[1].ops),
        "tensors": structure,
        "numbers": _numbers(result, samples),
    }


def _model(path: Path, exported: Exported, counts: Cost) -> Facts:
    proto = exported.proto
    opsets = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    return {
        "path": str(path),
        "bytes": exported.nbytes,
        "nodes": counts.nodes,
        "params": counts.params,
        "macs": counts.macs,
        "ir_version": proto.ir_version,
        "opset": opsets.get("ai.onnx"),
        "opsets": opsets,
    }


def _interface(a: Exported, b: Exported) -> list[str]:
    """Return what callers would notice: `- input x: float32[1]`, `+ input x: float32[2]`."""
    found = []
    for what, ours, theirs in (
        ("input", a.inputs, b.inputs),
        ("output", a.outputs, b.outputs),
    ):
        left, right = (
            [f"{what} {p}{'' if p.required else ', has a default'}" for p in ports]
            for ports in (ours, theirs)
        )
        found += [f"- {line}" for line in left if line not in right]
        found += [f"+ {line}" for line in right if line not in left]
        if left != right and sorted(left) == sorted(right):
            found.append(f"the {what}s are in another order")
    return found


def _changed(a: dict[str, int], b: dict[str, int]) -> dict[str, list[int]]:
    """Return [count in A, count in B] of the ops whose counts differ."""
    both = {op: [a.get(op, 0), b.get(op, 0)] for op in sorted({*a, *b})}
    return {op: counts for op, counts in both.items() if counts[0] != counts[1]}


def _structure(a: Exported, b: Exported) -> Facts:
    """Return which tensors are new, gone, or have other values."""
    from onnxopt.cli import holdings

    ours, theirs = ({t.name: t for t in holdings.held(m)} for m in (a, b))
    changed = [
        t
        for name, t in theirs.items()
        if name in ours and ours[name].source is not t.source and ours[name].digest() != t.digest()
    ]
    return {
        "added": _listed([t for name, t in theirs.items() if name not in ours]),
        "removed": _listed([t for name, t in ours.items() if name not in theirs]),
        "changed": _listed(changed),
    }


def _listed(tensors: list[Held]) -> Facts:
    tensors = sorted(tensors, key=lambda t: -t.nbytes)
    return {
        "count": len(tensors),
        "bytes": sum(t.nbytes for t in tensors),
        "largest": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes}
            for t in tensors[:LISTED]
        ],
    }


def _numbers(found: Any, samples: Samples | None) -> Facts:
    from onnxopt.cli.tables import finite

    return {
        "compared": found.compared,
        "samples": None if samples is None else samples.source,
        "synthetic": samples is None or samples.synthetic,
        "reason": found.reason or None,
        "noise_floor": finite(found.floor),
        "random": found.random,
        "outputs": [
            {
                "name": name,
                "drift": finite(drift),
                "largest": finite(found.largest[name]),
                "same": name not in found.beyond,
                "why": found.beyond.get(name),
            }
            for name, drift in found.drifts.items()
        ],
    }

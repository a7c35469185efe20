"""What `onnxopt inspect --sensitivity` shows: what each node costs and gives in integers, alone.

    error      sqrt(sum (y - y_source)^2 / sum y_source^2)     only this node in integers
    gain       mean of its share of all microseconds and its share of all bytes that integers save
    price      its share of all squared error / its gain

Errors are those of the outputs, on samples that nothing was fitted to. Times are those of the
node's own kernels in onnxruntime's rewritten graph, all in float against all in integers;
conversions between regions are not among them. What has a price far above 1 is the first to go
back to float.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxopt import deployed, match, shapes
from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt_passes.quant import audit, cpu, decide, dynamic, modes, opset, trial, weight_only
from onnxopt_passes.quant.converter import Converter
from onnxopt_passes.quant.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Exported
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.modes import Search

STEPS = {"hybrid": ("static", "dynamic"), "static": ("static",), "dynamic": ("dynamic",)}

SAMPLES = 8
"""Samples that each error is measured on."""


@dataclass(frozen=True)
class Candidate:
    """A node that may be quantized.

    Attributes:
        name: How plans and recipes call it.
        op: Its operator; for a stored weight that of its first reader.
        step: `static`, `dynamic` or `weights`.
        model: The model with this node alone quantized.
        nbytes: Bytes of the file that integers save.
        microseconds: Time that integers save; None where it was not measured.
    """

    name: str
    op: str
    step: str
    model: Exported
    nbytes: int
    microseconds: float | None


def survey(model: Model, q: Quant, ctx: Context) -> dict[str, Any]:
    """Return how sensitive a model is to quantization, node by node, the highest price first.

    Args:
        model: The float model, cleaned and fused; not changed.
        q: The options; the mode is chosen as for a run.
        ctx: With calibration samples.

    Returns:
        `mode`, `why`, `metric`, `samples`, `floats` (nodes without an integer kernel, and why), and
        `nodes`, each with `name`, `op`, `step`, `error`, `drop`, `microseconds`, `bytes`, `price`.

    Raises:
        CannotRun: onnxruntime cannot run the model.
        SamplesError: There are too few samples.
    """
    match.stamp(model.graph)
    mode, why = (q.mode, "it was asked for") if q.mode != "auto" else decide.mode(model, ctx)
    source = model.export()
    assert ctx.calibration is not None  # noqa: S101  # `inspect` demands --calib
    _, check = trial.parts(ctx.calibration, source, ctx.seed)
    held = Trial(source, check.take(SAMPLES), ctx)
    floats: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for candidate, share in _candidates(model, q, ctx, mode, floats):
        found = held.judge(candidate.model)
        rows.append(
            {
                "name": candidate.name,
                "op": candidate.op,
                "step": candidate.step,
                "error": _finite(math.sqrt(found.noise)),
                "drop": _finite(found.drop),
                "microseconds": candidate.microseconds,
                "bytes": candidate.nbytes,
            }
        )
        ctx.progress(share)
    return {
        "mode": mode,
        "why": why,
        "metric": held.metric.name,
        "samples": len(held.scores),
        "floats": floats,
        "nodes": priced(rows),
    }


def priced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with their `price`, the highest first; before them what saves nothing: None."""
    errors = sum(r["error"] ** 2 for r in rows if r["error"] is not None) or 1.0
    totals = {key: sum(max(0.0, r[key] or 0.0) for r in rows) for key in ("microseconds", "bytes")}
    kinds = [key for key, total in totals.items() if total]

    def price(row: dict[str, Any]) -> float | None:
        shares = [max(0.0, row[key] or 0.0) / totals[key] for key in kinds]
        gain = sum(shares) / len(kinds) if kinds else 0.0
        if row["error"] is None or not gain:
            return None
        return float(row["error"] ** 2 / errors / gain)

    found = [{**row, "price": price(row)} for row in rows]
    return sorted(found, key=lambda r: (r["price"] is not None, -(r["price"] or 0.0), r["name"]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _candidates(
    model: Model, q: Quant, ctx: Context, mode: str, floats: dict[str, str]
) -> Iterator[tuple[Candidate, float]]:
    """Yield each node quantized alone, and the share of all that is done by then."""
    steps = STEPS.get(mode, ("weights",))
    for number, step in enumerate(steps):
        if step == "weights":
            found = _weights(model, q, ctx)
        else:
            found = _integers(model, q, ctx, step, mode, floats)
        for i, candidate in enumerate(found):
            yield candidate, (number + (i + 1) / len(found)) / len(steps)


def _integers(
    model: Model, q: Quant, ctx: Context, step: str, mode: str, floats: dict[str, str]
) -> list[Candidate]:
    work = model.clone()
    needed = modes.STATIC_OPSET if step == "static" else modes.DYNAMIC_OPSET
    reason = opset.raise_to(work, needed, ctx)
    if reason:
        ctx.notes.append(f"not {step}: {reason}")
        return []
    profile = cpu.detect() if q.cpu == "auto" else q.cpu
    search = modes.Search(work, q, ctx, step, profile, products=mode != "hybrid")
    if isinstance(search.search, Converter):
        return _static(search.search, floats)
    return _dynamic(search, ctx)


def _static(converter: Converter, floats: dict[str, str]) -> list[Candidate]:
    found = converter.able()
    floats.update(converter.plan.floats)
    names = [u.name for u in found]
    before, after = (converter.build(some, named=True) for some in ((), names))
    feed, threads = converter.trial.feed, converter.ctx.threads
    times = audit.times(before, after, found, converter.known.sizes, feed, threads)
    return [
        Candidate(
            unit.name,
            unit.node.op,
            "static",
            converter.build([unit.name]),
            _saved(unit.node) if unit.weighted else 0,
            times.floats.get(unit.name, 0.0) - times.integers.get(unit.name, 0.0),
        )
        for unit in found
        if not unit.moves
    ]


def _dynamic(search: Search, ctx: Context) -> list[Candidate]:
    found = dynamic.find(search.model)
    settings = Settings(True, ctx.threads, ctx.custom_ops)
    floats = Model.from_exported(search.source)
    for _, graph in floats.graphs():
        audit.name_nodes(graph)
    pair = [floats.export(), search.build([p.name for p in found])]
    before, after = deployed.times(pair, settings, search.trial.feed)
    slow, quick = _by_label(before), _by_label(after)
    return [
        Candidate(
            product.name,
            product.node.op,
            "dynamic",
            search.build([product.name]),
            _saved(product.node),
            slow.get(label, 0.0) - quick.get(label, 0.0),
        )
        for product in found
        for label in [product.node.outputs[0].name]
    ]


def _by_label(costs: Mapping[str, deployed.Cost]) -> dict[str, float]:
    """Return microseconds by what nodes were made from: `label` and `label.part` together."""
    found: dict[str, float] = {}
    for name, cost in costs.items():
        whole = deployed.original(name)
        for label in {whole, *(whole.removesuffix(f".{part}") for part in dynamic.PARTS)}:
            found[label] = found.get(label, 0.0) + cost.microseconds
    return found


def _weights(model: Model, q: Quant, ctx: Context) -> list[Candidate]:
    """Return each weight stored in integers alone; what is computed stays float."""
    names: list[str] = []

    def note(edit: str) -> bool:
        names.append(edit)
        return False

    source = model.export()
    stored = replace(q, mode="weights", recover="none")
    weight_only.quantize_weights(model.clone(), stored, _apart(ctx, note))
    ops = _readers(model)
    found = []
    for edit in names:
        alone = model.clone()
        weight_only.quantize_weights(alone, stored, _apart(ctx, edit.__eq__))
        made, name = alone.export(), edit.partition("@")[2]
        saved = source.nbytes - made.nbytes
        found.append(Candidate(name, ops.get(name, ""), "weights", made, saved, None))
    return found


def _apart(ctx: Context, allow: Any) -> Context:
    """Return a context that says nothing to the run's own."""
    return replace(ctx, allow=allow, notes=[], untouched={}, evidence={})


def _readers(model: Model) -> dict[str, str]:
    shapes.infer(model)
    found: dict[str, str] = {}
    for path, graph in model.graphs():
        for node in graph.nodes:
            for tensor in node.inputs:
                found.setdefault(path + tensor.name, node.op)
    return found


def _saved(node: gs.Node) -> int:
    """Return the bytes that a weight in int8 saves, its scales counted."""
    weight = match.constant(node.inputs[1])
    assert weight is not None  # noqa: S101  # units and products have one
    scales = weight.shape[0] if node.op == "Conv" else weight.shape[-1]
    return int(weight.nbytes - weight.size - 4 * scales)

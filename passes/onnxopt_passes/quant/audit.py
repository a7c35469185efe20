"""The fusion audit: what onnxruntime really makes of a quantized model, node by node.

Its own rewritten graph is read, or a profile of it: each unit runs in integers, or in float behind
DequantizeLinear, which is overhead. Nodes are named by their units first, since onnxruntime keeps
the names of what it fuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import deployed
from onnxopt.runtime import Settings
from onnxopt_passes.quant import gating, units
from onnxopt_passes.quant.cut import Times

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    import onnx_graphsurgeon as gs

    from onnxopt.deployed import Cost
    from onnxopt.model import Exported
    from onnxopt_passes.quant.units import Unit

INTEGER_OPS = frozenset(
    {
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "ConvInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearConv",
    }
)

OVERHEAD = ("QuantizeLinear", "DequantizeLinear")

FIXED = 3.0
"""Microseconds that any node takes."""

SLOPE = 0.5e-3
"""Microseconds an element for a border: a Q or DQ, and a change of layout (docs/adr/0072)."""


def name_nodes(graph: gs.Graph) -> None:
    """Give each node of a graph the name that its unit has."""
    for node in graph.nodes:
        if node.outputs:
            node.name = units.label(node)


def integer(op: str) -> bool:
    """Whether an operator of onnxruntime's rewritten graph computes in integers."""
    return op in INTEGER_OPS or op.startswith("QLinear")


def islands(exported: Exported, found: Sequence[Unit], threads: int = 1) -> set[str]:
    """Return the units that compute in float although they stand between Q and DQ.

    Args:
        exported: The quantized model, its nodes named by `name_nodes`.
        found: Units that were quantized.
        threads: Threads of the session.

    Raises:
        CannotRun: onnxruntime refuses the model.
    """
    graph = deployed.rewritten(exported, Settings(True, threads)).graph
    ops = {deployed.original(node.name): node.op_type for node in graph.node}
    return {u.name for u in found if not u.moves and not integer(ops.get(u.name, "QLinear"))}


def overhead(exported: Exported, threads: int = 1) -> int:
    """Return how many QuantizeLinear and DequantizeLinear onnxruntime leaves in a model.

    Raises:
        CannotRun: onnxruntime refuses the model.
    """
    graph = deployed.rewritten(exported, Settings(True, threads)).graph
    return sum(node.op_type in OVERHEAD for node in graph.node)


def times(
    floats: Exported,
    integers: Exported,
    found: Collection[Unit],
    sizes: Mapping[str, int],
    feed: Mapping[str, Any],
    threads: int = 1,
) -> Times:
    """Time each unit in float and in integers.

    Args:
        floats: The model before, its nodes named by `name_nodes`.
        integers: The model with all these units in integers, named alike.
        found: The units.
        sizes: Elements of their tensors, by name.
        feed: One set of inputs.
        threads: Threads of the sessions.

    Raises:
        CannotRun: onnxruntime refuses a model.
    """
    settings = Settings(True, threads)
    before, after = deployed.times([floats, integers], settings, feed)
    slow, quick = by_unit(before, found), by_unit(after, found)
    for unit in found:
        if unit.moves:
            slow.setdefault(unit.name, 0.0)
            quick.setdefault(unit.name, 0.0)
    fixed, slope = _border(after)
    return Times(slow, quick, {n: fixed + slope * size for n, size in sizes.items()})


def by_unit(costs: Mapping[str, Cost], found: Collection[Unit]) -> dict[str, float]:
    """Return the microseconds of units that have nodes of their own in a profile."""
    names = {}
    for unit in found:
        gate = f"{unit.name}{gating.SUFFIX}"
        names.update(dict.fromkeys((unit.name, unit.output.name, gate), unit.name))
    sums: dict[str, float] = {}
    for name, cost in costs.items():
        owner = names.get(deployed.original(name))
        if owner is not None:
            sums[owner] = sums.get(owner, 0.0) + cost.microseconds
    return sums


def _border(costs: Mapping[str, Cost]) -> tuple[float, float]:
    """Return what a border costs: microseconds, and microseconds an element."""
    known = [c.microseconds for c in costs.values() if c.op in OVERHEAD]
    return (max(FIXED, min(known)) if known else FIXED), SLOPE

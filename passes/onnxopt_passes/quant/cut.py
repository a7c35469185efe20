"""Integers or float for each unit, by a minimum cut on measured times.

    minimize  sum of t_integer or t_float over units
            + t_quantize of each float tensor that units in integers read
            + t_dequantize of each integer tensor that somebody reads in float
            + penalty of units in integers

            + t_unfused of units in float that a maker in integers would have taken along in float

Both border costs are paid once a tensor, whatever the number of readers, which makes the problem a
minimum cut between `integers` and `float`; it is solved exactly. A region whose borders cost more
than it gains stays in float as a whole. The penalty buys accuracy: it is the error of a unit times
the price of error.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from onnxopt import match

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnxopt_passes.quant.units import Unit

INTEGERS, FLOAT = ("side", "integers"), ("side", "float")


@dataclass(frozen=True)
class Times:
    """Microseconds.

    Attributes:
        floats: Of units in float; a unit that is missing was fused into another: into the one with
            a weight that it reads (an activation, a residual sum), else into its reader.
        integers: Of units in integers; one that is missing has no integer kernel.
        borders: Of a border at a tensor, by the tensor's name: quantizing or dequantizing it, and
            changing its layout.
    """

    floats: Mapping[str, float]
    integers: Mapping[str, float]
    borders: Mapping[str, float]


def cheapest(found: Sequence[Unit], times: Times, penalty: Mapping[str, float]) -> set[str]:
    """Return the names of the units that run in integers in the cheapest plan.

    Args:
        found: All units of a graph.
        times: What they cost.
        penalty: Microseconds that a unit in integers costs beyond its time, by name.
    """
    network = nx.DiGraph()
    network.add_nodes_from((INTEGERS, FLOAT))
    able = [u for u in found if u.name in times.integers]
    taken = _taken(able, times)
    makers = {id(t): u.name for u in able for t in (u.output, *u.node.outputs)}
    for unit in able:
        floats = times.floats.get(unit.name, 0.0)
        network.add_edge(INTEGERS, unit.name, capacity=floats)
        costs = times.integers[unit.name] + penalty.get(unit.name, 0.0)
        network.add_edge(unit.name, FLOAT, capacity=costs)
    _borders(network, able, makers, times)
    for unit in able:
        source = makers.get(id(unit.inputs[0]))
        if unit.moves:  # has integers only from a maker that has
            network.add_edge(unit.name, source or FLOAT)
        if unit.name not in times.floats and not unit.moves:
            _tie(network, unit, makers, taken, times)
    _, (inside, _) = nx.minimum_cut(network, INTEGERS, FLOAT)
    return {u.name for u in able if u.name in inside}


def among(
    found: Sequence[Unit],
    kept: Collection[str],
    times: Times,
    shares: Mapping[str, float] | None = None,
    price: float = 0.0,
) -> set[str]:
    """Return the cheapest plan among units that are kept.

    Args:
        found: All units of a graph.
        kept: Names of those that may be in integers.
        times: What they cost.
        shares: The share of each in all error, by name.
        price: What all error costs together, in units of the time that integers save.
    """
    saved = sum(times.floats.get(n, 0.0) - t for n, t in times.integers.items())
    penalty = {name: price * max(saved, 1.0) * share for name, share in (shares or {}).items()}
    barred = {u.name: np.inf for u in found if u.name not in kept}
    return cheapest(found, times, {**penalty, **barred})


def _taken(able: Sequence[Unit], times: Times) -> dict[int, str]:
    """Return the units that float kernels take their readers along with, by the ids of tensors."""
    found: dict[int, str] = {}
    for unit in able:
        if unit.weighted:
            found[id(unit.output)] = unit.name
        elif unit.name not in times.floats and not unit.moves:
            above = next((found[id(t)] for t in unit.inputs if id(t) in found), None)
            if above is not None:
                found[id(unit.output)] = above
    return found


def _tie(
    network: nx.DiGraph,
    unit: Unit,
    makers: Mapping[int, str],
    taken: Mapping[int, str],
    times: Times,
) -> None:
    """Say what it costs to part a unit from the one that it was fused into.

    Its time in float alone is not known; it passes over its tensor like a border.
    """
    above = {taken[id(t)] for t in unit.inputs if id(t) in taken}
    for maker in above:
        network.add_edge(maker, unit.name, capacity=times.borders.get(unit.output.name, 0.0))
    if not above:
        for reader in _readers(unit, makers):
            network.add_edge(unit.name, reader)
            network.add_edge(reader, unit.name)


def _borders(
    network: nx.DiGraph, able: Sequence[Unit], makers: Mapping[int, str], times: Times
) -> None:
    readers: dict[str, set[object]] = defaultdict(set)
    makes: dict[str, object] = {}
    for unit in able:
        for tensor in unit.inputs:
            readers[tensor.name].add(unit.name)
            makes[tensor.name] = makers.get(id(tensor), FLOAT)
        makes[unit.output.name] = unit.name
        ours = _readers(unit, makers)
        readers[unit.output.name].update(ours)
        inner = [r for r in unit.output.outputs if not r.outputs or makers_of(r, makers) is None]
        if inner or match.fetched(unit.output):
            readers[unit.output.name].add(FLOAT)
    for name, maker in makes.items():
        price = times.borders.get(name, 0.0)
        leave, enter = ("leave", name), ("enter", name)
        if maker != FLOAT:
            network.add_edge(maker, leave, capacity=price)
        network.add_edge(enter, maker, capacity=price)
        for reader in readers[name]:
            if maker != FLOAT:
                network.add_edge(leave, reader)
            if reader != FLOAT:
                network.add_edge(reader, enter)


def makers_of(reader: object, makers: Mapping[int, str]) -> str | None:
    """Return the unit that a node belongs to, None if it is none."""
    outputs = getattr(reader, "outputs", ())
    return makers.get(id(outputs[0])) if outputs else None


def _readers(unit: Unit, makers: Mapping[int, str]) -> list[str]:
    found = (makers_of(reader, makers) for reader in unit.output.outputs)
    return [name for name in dict.fromkeys(found) if name is not None]

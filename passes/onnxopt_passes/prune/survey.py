"""What `onnxopt inspect --groups` shows: groups, why some are frozen, how far pruning reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from onnxopt.model import ir
from onnxopt_passes.prune.analysis import analyse

if TYPE_CHECKING:
    from onnxopt.model import Model
    from onnxopt_passes.prune.analysis import Analysis


def survey(model: Model) -> dict[str, Any]:
    """Return the groups of a model as JSON has them.

    `reach_params` is the share of all weights that lie in a slice of a group that can be cut;
    `units` is how many sets of groups there are that share no weight.
    """
    analysis = analyse(model)
    return {
        "reach_params": _reach(analysis),
        "units": nx.number_connected_components(network(analysis)),
        "unknown": {op: list(names) for op, names in analysis.unknown.items()},
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "heads": g.head,
                "members": [
                    {"weight": m.constant.name, "axis": m.axis, "role": m.role.value}
                    for m in g.members
                ],
                "frozen": g.frozen,
            }
            for g in analysis.told
        ],
    }


def network(analysis: Analysis) -> nx.Graph:
    """Return groups that can be cut, and the weights they run along, as a bipartite graph."""
    graph = nx.Graph()
    for group in analysis.free:
        graph.add_node(("group", group.name), size=group.size)
        for member in group.members:
            weight = ("weight", member.constant.name)
            graph.add_edge(("group", group.name), weight, axis=member.axis, role=member.role.value)
    return graph


def _reach(analysis: Analysis) -> float:
    constants = {
        id(t): t
        for node in analysis.model.graph.nodes
        for t in node.inputs
        if isinstance(t, ir.Constant)
    }
    total = sum(int(np.prod(t.shape)) for t in constants.values())
    free = {id(m.constant): m.constant for g in analysis.free for m in g.members}
    held = sum(int(np.prod(t.shape)) for t in free.values())
    return held / total if total else 0.0

"""What `onnxopt inspect --groups` shows: groups, why some are frozen, how far pruning reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from onnxopt import cost
from onnxopt.errors import SamplesError
from onnxopt.samples import synthetic
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.cut import cut

if TYPE_CHECKING:
    from onnxopt.model import Model
    from onnxopt_passes.prune.analysis import Analysis


def survey(model: Model) -> dict[str, Any]:
    """Return the groups of a model as JSON has them.

    `reach_params` and `reach_macs` are the shares of the parameters and of the multiply-accumulates
    that go if one index is left of each group that can be cut, the latter None where the shapes it
    takes are not known; `units` is how many sets of groups there are that share no weight.
    """
    analysis = analyse(model)
    return {
        **_reach(analysis),
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
                "soft": g.soft is not None and g.frozen == g.soft,
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


def _reach(analysis: Analysis) -> dict[str, float | None]:
    """Return the shares of parameters and of MACs that go if one index is left of each group."""
    source = analysis.model
    least = source.clone()
    found = analyse(least)
    cut(found, {g.name: np.arange(g.size) == 0 for g in found.free})
    feed = _feed(source)
    before, after = (cost.measure(m.export(), feed) for m in (source, least))
    macs = None
    if before.macs and after.macs is not None:
        macs = 1 - after.macs / before.macs
    return {
        "reach_params": 1 - after.params / before.params if before.params else 0.0,
        "reach_macs": macs,
    }


def _feed(model: Model) -> dict[str, Any] | None:
    """Return an input to count on; None where none can be drawn."""
    try:
        return next(synthetic(model.export().inputs, n=1).feeds())
    except SamplesError:
        return None

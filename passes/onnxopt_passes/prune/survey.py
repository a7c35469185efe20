"""What `onnxopt inspect --groups` shows: groups, why some are frozen, how far pruning reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from onnxopt import cost
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.cut import cut
from onnxopt_passes.prune.observe import drawn, observe

if TYPE_CHECKING:
    from onnxopt.model import Model
    from onnxopt.runtime import Settings
    from onnxopt_passes.prune.analysis import Analysis
    from onnxopt_passes.prune.observe import Lengths


def survey(model: Model, settings: Settings) -> dict[str, Any]:
    """Return the groups of a model as JSON has them; a run may show what shapes leave open.

    `reach_params` and `reach_macs` are the shares of the parameters and of the multiply-accumulates
    that go if one index is left of each group that can be cut, the latter None where the shapes it
    takes are not known; `units` is how many sets of groups there are that share no weight.
    """
    observed = observe(model, drawn(model), settings)
    analysis = analyse(model, observed=observed)
    return {
        **_reach(analysis, observed),
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
            for g in analysis.groups
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


def _reach(analysis: Analysis, observed: Lengths) -> dict[str, float | None]:
    """Return the shares of parameters and of MACs that go if one index is left of each group."""
    source = analysis.model
    least = source.clone()
    found = analyse(least, observed=observed)
    cut(found, {g.name: np.arange(g.size) == 0 for g in found.free})
    feed = next(iter(drawn(source)), None)
    before, after = (cost.measure(m.export(), feed) for m in (source, least))
    macs = None
    if before.macs and after.macs is not None:
        macs = 1 - after.macs / before.macs
    return {
        "reach_params": 1 - after.params / before.params if before.params else 0.0,
        "reach_macs": macs,
    }

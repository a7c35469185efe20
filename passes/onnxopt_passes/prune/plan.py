"""A plan: which indices stay of each group, as JSON that can be reviewed, edited and used again.

{"schema_version": 1, "groups": {"conv1.weight": {"size": 64, "keep": [0, 1, 5, ...]}, ...}}
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.errors import OutputError, PassError
from onnxopt_passes.prune import branch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnxopt_passes.prune.groups import Group

SCHEMA_VERSION = 1


def write(path: Path, groups: Sequence[Group], keeps: Mapping[str, np.ndarray]) -> None:
    """Write a plan.

    Raises:
        OutputError: The file cannot be written.
    """
    entries = {
        g.name: {"size": g.size, "keep": [int(i) for i in keeps[g.name]]}
        for g in groups
        if g.name in keeps
    }
    text = json.dumps({"schema_version": SCHEMA_VERSION, "groups": entries}, indent=1)
    try:
        path.write_text(f"{text}\n", "utf-8")
    except OSError as e:
        raise OutputError(f"the plan cannot be written to {path}: {e.strerror}") from e


def read(path: Path, groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Read a plan; return the indices that stay, ascending, of each group in it.

    Raises:
        PassError: It is no plan, or not one for these groups.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))["groups"]
        lists = {str(name): [int(i) for i in entry["keep"]] for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise PassError(f"{path} is no plan of prune: {e}") from e
    by_name = {g.name: g for g in groups}
    found: dict[str, np.ndarray] = {}
    for name, indices in lists.items():
        group = by_name.get(name)
        if group is None:
            raise PassError(f"{path}: the model has no group {name!r}")
        if group.frozen is not None:
            raise PassError(f"{path}: {name!r} cannot be cut: {group.frozen}")
        if len(set(indices)) < len(indices):
            raise PassError(f"{path}: {name!r} keeps an index twice")
        if not indices and branch.end(group) is None:
            raise PassError(f"{path}: {name!r} keeps no index, and is in no branch that could go")
        if indices and (min(indices) < 0 or max(indices) >= group.size):
            raise PassError(f"{path}: {name!r} has {group.size} indices, the plan keeps others")
        found[name] = np.array(sorted(indices), np.int64)
    return found

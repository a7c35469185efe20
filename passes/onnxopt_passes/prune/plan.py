"""A plan: which indices stay of each group, as JSON that can be reviewed, edited and used again.

{"schema_version": 1, "groups": {"conv1.weight": {"size": 64, "keep": [0, 1, 5, ...]}, ...}}

Where they differ from block to block, `keep` has a list for each: `[[0, 5], [2, 3]]`. With
`"basis": "sorted"` the indices are those of a basis that the calibration samples give, the one that
matters most first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.errors import OutputError, SpecError
from onnxopt_passes.prune import branch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnxopt_passes.prune.groups import Group

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What a plan says.

    Attributes:
        keeps: The indices that stay, ascending, by group; of groups with an order, after it.
        orders: Of groups that keep other indices in each block, int64 (blocks, n): all indices of
            each block, those that stay first.
        turned: Groups whose indices are those of a sorted basis.
    """

    keeps: dict[str, np.ndarray]
    orders: dict[str, np.ndarray]
    turned: frozenset[str]


def write(
    path: Path,
    groups: Sequence[Group],
    keeps: Mapping[str, np.ndarray],
    orders: Mapping[str, np.ndarray],
    turned: Sequence[str] = (),
) -> None:
    """Write a plan.

    Args:
        path: The file.
        groups: The groups that were open to a cut.
        keeps: The indices that stay, of those that lose some.
        orders: Of groups whose blocks were put in order, int64 (blocks, n).
        turned: Groups whose indices are those of a sorted basis.

    Raises:
        OutputError: The file cannot be written.
    """
    entries: dict[str, dict[str, object]] = {}
    for g in groups:
        if g.name not in keeps:
            continue
        keep = keeps[g.name]
        if g.name in orders:
            keep = np.sort(orders[g.name][:, keep], axis=1)
        entries[g.name] = {"size": g.size, "keep": keep.tolist()}
        if g.name in turned:
            entries[g.name]["basis"] = "sorted"
    text = json.dumps({"schema_version": SCHEMA_VERSION, "groups": entries}, indent=1)
    try:
        path.write_text(f"{text}\n", "utf-8")
    except OSError as e:
        raise OutputError(f"the plan cannot be written to {path}: {e.strerror}") from e


def read(path: Path, groups: Sequence[Group]) -> Plan:
    """Read a plan.

    Raises:
        SpecError: It is no plan, or not one for these groups.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))["groups"]
        lists = {str(name): _blocks(entry["keep"]) for name, entry in entries.items()}
        turned = frozenset(n for n, entry in entries.items() if entry.get("basis") == "sorted")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise SpecError(f"{path} is no plan of prune: {e}") from e
    by_name = {g.name: g for g in groups}
    keeps: dict[str, np.ndarray] = {}
    orders: dict[str, np.ndarray] = {}
    for name, (ragged, blocks) in lists.items():
        group = by_name.get(name)
        if group is None:
            raise SpecError(f"{path}: the model has no group {name!r}")
        for indices in blocks:
            _check(path, group, indices)
        if len({len(indices) for indices in blocks}) > 1:
            raise SpecError(f"{path}: {name!r} keeps more indices in one block than in another")
        keeps[name] = np.array(sorted(blocks[0]), np.int64)
        if ragged:
            every = range(group.size)
            rows = [[*sorted(b), *(i for i in every if i not in set(b))] for b in blocks]
            orders[name] = np.array(rows, np.int64)
            keeps[name] = np.arange(len(blocks[0]))
    return Plan(keeps, orders, turned)


def _blocks(keep: list[Any]) -> tuple[bool, list[list[int]]]:
    """Return whether a group keeps other indices in each block, and those of each block."""
    ragged = bool(keep) and isinstance(keep[0], list)
    return ragged, [[int(i) for i in part] for part in (keep if ragged else [keep])]


def _check(path: Path, group: Group, indices: list[int]) -> None:
    name = group.name
    if group.frozen is not None:
        raise SpecError(f"{path}: {name!r} cannot be cut: {group.frozen}")
    if len(set(indices)) < len(indices):
        raise SpecError(f"{path}: {name!r} keeps an index twice")
    if not indices and branch.end(group) is None:
        raise SpecError(f"{path}: {name!r} keeps no index, and is in no branch that could go")
    if indices and (min(indices) < 0 or max(indices) >= group.size):
        raise SpecError(f"{path}: {name!r} has {group.size} indices, the plan keeps others")

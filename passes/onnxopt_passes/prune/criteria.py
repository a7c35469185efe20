"""What an index of a group is worth: one number each, larger for what should stay.

A criterion is a function `(group, model, rng) -> (n,) float`. `l1` and `l2` add up the weights that
make an index, `bn` the scales that multiply it, `random` draws. Each is divided by its mean over
the group, so that groups can be compared.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match
from onnxopt.errors import PassError
from onnxopt_passes.prune.groups import Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from onnxopt.model import Model
    from onnxopt_passes.prune.groups import Group, Member

    Criterion: TypeAlias = Callable[[Group, Model, np.random.Generator], np.ndarray]


def l1(group: Group, model: Model, rng: np.random.Generator) -> np.ndarray:
    """Sum of the magnitudes of the weights that make an index."""
    return _summed(_makers(group), 1)


def l2(group: Group, model: Model, rng: np.random.Generator) -> np.ndarray:
    """Root of the sum of squares of the weights that make an index."""
    return np.asarray(np.sqrt(_summed(_makers(group), 2)))


def bn(group: Group, model: Model, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of the scales of BatchNormalizations; `l1` where there are none."""
    scales = [
        m
        for m in group.members
        if any(
            match.is_op(n, "BatchNormalization") and n.inputs[1] is m.constant
            for n in m.constant.outputs
        )
    ]
    return _summed(scales, 1) if scales else l1(group, model, rng)


def random(group: Group, model: Model, rng: np.random.Generator) -> np.ndarray:
    """The baseline."""
    return rng.random(group.size)


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "bn": bn, "random": random}


def named(name: str) -> Criterion:
    """Return a criterion by its name, or by `module:function`.

    Raises:
        PassError: There is none of that name.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise PassError(f"no criterion is named {name!r}; there are: obs, {', '.join(CRITERIA)}")
    try:
        found: Criterion = getattr(import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise PassError(f"the criterion {name!r} cannot be imported: {e}") from e
    return found


def scores(name: str, group: Group, model: Model, seed: int) -> np.ndarray:
    """Return what the indices of a group are worth, 1 on average.

    Raises:
        PassError: There is no such criterion, or it returns something else.
    """
    rng = np.random.default_rng([seed, *group.name.encode()])
    found = np.asarray(named(name)(group, model, rng), np.float64)
    if found.shape != (group.size,) or not np.isfinite(found).all():
        raise PassError(f"criterion {name!r} gives no {group.size} numbers for {group.name!r}")
    mean = float(found.mean())
    return found / mean if mean > 0 else found


def _makers(group: Group) -> list[Member]:
    return list(group.producers or group.consumers) or list(group.members)


def _summed(members: list[Member], power: int) -> np.ndarray:
    """Return, for each index, the sum of |w|^power over its slices of all members."""
    total = np.zeros(len(members[0].columns))
    for member in members:
        if member.role is Role.DIVISOR and len(members) > 1:
            continue
        values = np.abs(member.constant.values.astype(np.float64)) ** power
        others = tuple(i for i in range(values.ndim) if i != member.axis)
        total += values.sum(axis=others)[member.columns].sum(axis=1)
    return total

"""What an index of a group is worth: one number each, larger for what should stay.

A criterion is a function `(group, seen) -> (n,) float`, or None where nothing is known of a group;
`seen` has the model, random numbers and, with samples, what layers read and what gates do. Those on
weights alone: `l1` and `l2` add up the weights that make an index, `bn` the scales that
multiply it, `random` draws. Those on samples, with x_j what a layer reads, W_j its weights, J_j how
the outputs change with the gate of j (`gates`):

    activation   root of the sum over layers of |x_j|^2 |W_j|^2 / power     (Wanda, Sun et al. 2023)
    taylor       |mean over samples of the change of the loss|              (Molchanov et al. 2019)
    fisher       mean over samples of J_j^T S J_j                           (Kwon et al. 2022)

There are no labels. For class scores the loss is the cross-entropy of the class that the model
chooses, and J^T S J the Fisher information of its own probabilities; for other outputs the loss is
half the squared outputs, and S scales each output to power 1. Each criterion is divided by its mean
over the group, so that groups can be compared.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt import match
from onnxopt.errors import SpecError
from onnxopt.readout import class_probabilities
from onnxopt_passes.prune.consumers import columns_of, read_of
from onnxopt_passes.prune.gates import STEP, float_pairs
from onnxopt_passes.prune.groups import Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from onnxopt.parity import Outputs
    from onnxopt_passes.prune.groups import Group, Member
    from onnxopt_passes.prune.seen import Seen

    Criterion: TypeAlias = Callable[[Group, Seen], np.ndarray | None]

FLOOR = 1e-9
"""Smallest probability, to take the logarithm of."""


def l1(group: Group, seen: Seen) -> np.ndarray:
    """Sum of the magnitudes of the weights that make an index."""
    return _summed(_makers(group), 1)


def l2(group: Group, seen: Seen) -> np.ndarray:
    """Root of the sum of squares of the weights that make an index."""
    return np.asarray(np.sqrt(_summed(_makers(group), 2)))


def bn(group: Group, seen: Seen) -> np.ndarray:
    """Magnitude of the scales of BatchNormalizations; `l1` where there are none."""
    scales = [
        m
        for m in group.members
        if any(
            match.is_op(n, "BatchNormalization") and n.inputs[1] is m.constant
            for n in m.constant.outputs
        )
    ]
    return _summed(scales, 1) if scales else l1(group, seen)


def random(group: Group, seen: Seen) -> np.ndarray:
    """The baseline."""
    return seen.rng(group.name).random(group.size)


def activation(group: Group, seen: Seen) -> np.ndarray | None:
    """Norm of what layers read of an index, times the norm of the weights they multiply it with."""
    found = [(m, r) for m in group.consumers if (r := read_of(m, seen.reads)) is not None]
    if not found:
        return None
    total = np.zeros(group.size)
    for member, read in found:
        squares = np.einsum("gkk->gk", read.moments.raw().xx) * (read.matrix() ** 2).sum(1)
        total += squares[:, columns_of(member, read)].sum((0, 2)) / max(read.power, FLOOR)
    return np.asarray(np.sqrt(total))


def taylor(group: Group, seen: Seen) -> np.ndarray:
    """Magnitude of the mean change of the loss as the gate of an index is turned down."""
    whole = seen.gates.outputs
    return np.array(
        [
            abs(np.mean([_slope(want, got) for want, got in zip(whole, turned, strict=True)]))
            for turned in seen.gates.turned(group)
        ]
    )


def fisher(group: Group, seen: Seen) -> np.ndarray:
    """Mean squared change of the outputs as the gate of an index is turned down."""
    whole = seen.gates.outputs
    return np.array(
        [
            np.mean([_information(want, got) for want, got in zip(whole, turned, strict=True)])
            for turned in seen.gates.turned(group)
        ]
    )


def _slope(want: Outputs, got: Outputs) -> float:
    """Return the change of the loss of one sample, by the unit of a gate."""
    logs = _log_probabilities(want, got)
    if logs is not None:
        rows, top = np.arange(len(logs[0])), logs[0].argmax(1)
        return float((logs[0] - logs[1])[rows, top].sum() / STEP)
    parts = [((a * (a - b)).sum(), (a**2).sum()) for _, a, b in float_pairs(want, got)]
    return float(sum(change / max(power, FLOOR) for change, power in parts) / STEP)


def _information(want: Outputs, got: Outputs) -> float:
    """Return J^T S J of one sample."""
    logs = _log_probabilities(want, got)
    if logs is not None:
        return float((np.exp(logs[0]) * ((logs[0] - logs[1]) / STEP) ** 2).sum())
    parts = [(((a - b) ** 2).sum(), (a**2).sum()) for _, a, b in float_pairs(want, got)]
    return float(sum(change / max(power, FLOOR) for change, power in parts) / STEP**2)


def _log_probabilities(want: Outputs, got: Outputs) -> tuple[np.ndarray, np.ndarray] | None:
    found = class_probabilities(want), class_probabilities(got)
    if found[0] is None or found[1] is None:
        return None
    return np.log(np.maximum(found[0], FLOOR)), np.log(np.maximum(found[1], FLOOR))


CRITERIA: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "bn": bn,
    "random": random,
    "activation": activation,
    "taylor": taylor,
    "fisher": fisher,
}


def named(name: str) -> Criterion:
    """Return a criterion by its name, or by `module:function`.

    Raises:
        SpecError: There is none of that name.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise SpecError(f"no criterion is named {name!r}; there are: obs, {', '.join(CRITERIA)}")
    try:
        found: Any = getattr(import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise SpecError(f"the criterion {name!r} cannot be imported: {e}") from e
    criterion: Criterion = found
    return criterion


def scores(name: str, group: Group, seen: Seen) -> np.ndarray | None:
    """Return what the indices of a group are worth, 1 on average; None where nothing is known.

    Raises:
        SpecError: There is no such criterion, it needs samples and there are none, or it returns
            something else.
        CannotRun: The model does not run on the samples.
    """
    worth = named(name)(group, seen)
    if worth is None:
        return None
    found = np.asarray(worth, np.float64)
    if found.shape != (group.size,) or not np.isfinite(found).all():
        raise SpecError(f"criterion {name!r} gives no {group.size} numbers for {group.name!r}")
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

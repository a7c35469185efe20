"""A cut model is fitted to the uncut one, layer by layer."""

import numpy as np
import pytest
from residual import residual, samples_of

from onnxopt import Model
from onnxopt.samples.base import Samples
from onnxopt.statistics import Tap, linear
from onnxopt_passes.prune.compensate import Twin, compensate

KEPT = np.array([0, 2, 3, 7, 8, 11])


def cut(model: Model) -> Model:
    """Return the model with half of its inner channels."""
    found = model.clone()
    _, c1, c2, _ = (layer.node for layer in linear.find_all(found.graph))
    c1.inputs[1].values = c1.inputs[1].values[KEPT]
    c1.inputs[2].values = c1.inputs[2].values[KEPT]
    c2.inputs[1].values = c2.inputs[1].values[:, KEPT]
    return found.clone()


def twins(student: Model, teacher: Model, only: tuple[int, ...]) -> list[Twin]:
    pairs = list(zip(linear.find_all(student.graph), linear.find_all(teacher.graph), strict=True))
    return [Twin(*pairs[i], KEPT if i == 1 else None) for i in only]


def distance(student: Model, teacher: Model, samples: Samples, tensor: str = "sum") -> float:
    """Mean square between the two models at a tensor, as a share of its power."""
    taps = [
        Tap(m, [next(t for n in m.graph.nodes for t in n.outputs if t.name == tensor)])
        for m in (student, teacher)
    ]
    ours, theirs = (np.concatenate([v[0] for v in tap.over(samples)]) for tap in taps)
    return float(((ours - theirs) ** 2).mean() / (theirs**2).mean())


def test_all_layers_together_come_near_the_uncut_model():
    teacher, samples, fresh = residual(), samples_of(60), samples_of(20, seed=1)
    student = cut(teacher)
    before = distance(student, teacher, fresh)
    pairs = twins(student, teacher, (0, 1, 2, 3))
    fits = compensate(teacher, student, pairs, samples.feeds, samples.count())
    assert list(fits) == ["c0", "c1", "c2", "y"]
    assert fits["c2"].ridge is not None
    assert fits["c2"].after < 0.5 * fits["c2"].before
    assert distance(student, teacher, fresh) < 0.5 * before
    assert distance(student.clone(), teacher, fresh, "y") < 0.1


def test_a_branch_mends_its_shortcut():
    """The target of c2 is the uncut sum less the shortcut that the student has."""
    teacher, samples, fresh = residual(), samples_of(60), samples_of(20, seed=1)
    student = teacher.clone()
    first = linear.find_all(student.graph)[0]
    first.write(first.matrix(), first.offsets() + 0.3)
    before = distance(student, teacher, fresh)
    compensate(teacher, student, twins(student, teacher, (2,)), samples.feeds, samples.count())
    assert distance(student, teacher, fresh) < 0.5 * before


def test_two_runs_give_the_same_weights():
    teacher, samples = residual(), samples_of(30)
    found = []
    for _ in range(2):
        student = cut(teacher)
        pairs = twins(student, teacher, (1, 2))
        compensate(teacher, student, pairs, samples.feeds, samples.count())
        found.append(student.export().whole().SerializeToString(deterministic=True))
    assert found[0] == found[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    teacher, samples = residual(), samples_of(8)
    teacher.graph.nodes[0].inputs[2].values = np.full(8, value, np.float32)
    student = cut(teacher)
    pairs = twins(student, teacher, (2,))
    weight = pairs[0].student.weight.values
    fits = compensate(teacher, student, pairs, samples.feeds, samples.count())
    assert fits["c2"].ridge is None
    assert pairs[0].student.weight.values is weight

"""Widths are those of least error at the cost asked for."""

from itertools import product

import numpy as np
import pytest

from onnxopt_passes.prune.allocate import Choices, Costs, Work, least_error, uniform


def convex(size: int, scale: float, widths: tuple[int, ...] | None = None) -> Choices:
    errors = scale * (np.arange(size + 1) / size) ** 2
    return Choices(size, errors, widths or tuple(range(1, size + 1)))


def separate(choices: list[Choices], prices: list[float]) -> Costs:
    works = [
        Work(p, ({i: 1 / c.size},)) for i, (c, p) in enumerate(zip(choices, prices, strict=True))
    ]
    return Costs(works, [c.size for c in choices])


def total_error(choices: list[Choices], widths: list[int]) -> float:
    return sum(c.error(w) for c, w in zip(choices, widths, strict=True))


def test_costs_multiply_along_axes():
    costs = Costs([Work(10.0, ({0: 0.25}, {1: 0.1})), Work(3.0)], [4, 10])
    assert costs.total([4, 10]) == 13
    assert costs.total([2, 5]) == pytest.approx(10 * 0.5 * 0.5 + 3)
    assert costs.saved([2, 10], 1, np.array([5, 10])) == pytest.approx([2.5, 0])


@pytest.mark.parametrize("budget", [4.0, 7.0, 9.5])
def test_near_the_best_of_all_widths(budget):
    choices = [convex(6, 1.0), convex(5, 0.3), convex(4, 2.0)]
    costs = separate(choices, [5.0, 3.0, 4.0])
    found = least_error(choices, costs, budget)
    assert costs.total(found) <= budget
    every = [w for w in product(*(c.widths for c in choices)) if costs.total(w) <= budget]
    optimum = min(total_error(choices, list(w)) for w in every)
    assert total_error(choices, found) <= 1.15 * optimum


def test_a_plateau_is_passed_in_one_step():
    """Half of the way costs all of the error, the whole way no more."""
    flat = Choices(4, np.array([0, 1.0, 1.0, 1.0, 1.0]), (1, 2, 3, 4))
    steep = Choices(4, np.array([0, 0.4, 0.8, 1.2, 1.6]), (1, 2, 3, 4))
    costs = separate([flat, steep], [4.0, 4.0])
    assert least_error([flat, steep], costs, 5.0) == [1, 4]


def test_only_widths_that_are_allowed():
    choices = [convex(32, 1.0, (8, 16, 24, 32)), convex(16, 1.0, (0, 8, 16))]
    costs = separate(choices, [1.0, 1.0])
    for budget in (0.2, 0.9, 1.4):
        for found in (least_error(choices, costs, budget), uniform(choices, costs, budget)):
            assert all(w in c.widths for w, c in zip(found, choices, strict=True))
            assert costs.total(found) <= max(budget, costs.total([8, 0]))


def test_a_budget_that_cannot_be_met_gives_the_least():
    choices = [convex(4, 1.0, (2, 4))]
    costs = separate(choices, [1.0])
    assert least_error(choices, costs, 0.1) == [2]
    assert uniform(choices, costs, 0.1) == [2]


def test_a_budget_of_all_changes_nothing():
    choices = [convex(4, 1.0), convex(3, 1.0)]
    costs = separate(choices, [1.0, 1.0])
    assert least_error(choices, costs, 2.0) == [4, 3]


def test_time_that_goes_in_blocks_is_saved_in_blocks():
    """Below 8 of 16 nothing is saved any more, and between 8 and 16 nothing either."""
    choices = [convex(16, 1.0, (4, 8, 12, 16)), convex(16, 1.0, (4, 8, 12, 16))]

    def blocks(left):
        return np.ceil(np.asarray(left) * 2)

    costs = Costs([Work(2.0, ({i: 1 / 16},), blocks) for i in range(2)], [16, 16])
    assert costs.total([16, 16]) == 4
    assert list(costs.saved([16, 16], 0, np.array([4, 8, 12]))) == [1, 1, 0]
    assert sorted(least_error(choices, costs, 3.0)) == [8, 16]
    assert least_error(choices, costs, 2.0) == [8, 8]


def test_a_surface_sees_both_axes():
    work = Work(12.0, ({0: 0.25}, {1: 0.1}), lambda a, b: 10 * np.maximum(a, b) + 2)
    costs = Costs([work], [4, 10])
    assert costs.total([2, 10]) == 12
    assert costs.total([2, 5]) == 7
    np.testing.assert_allclose(costs.saved([2, 5], 1, np.array([2, 5, 10])), [0, 0, -5])

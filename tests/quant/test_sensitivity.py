"""Which units go back to float where the metric does not hold."""

from __future__ import annotations

from types import SimpleNamespace

from onnxopt_passes.quant import sensitivity
from onnxopt_passes.quant.trial import Found


class Errors:
    """A trial whose models are sets of names, and whose drop is the sum of their errors."""

    def __init__(self, errors):
        self.errors, self.asked = errors, []

    def judge(self, names, most=None):
        return Found(sum(self.errors[n] for n in names), 0.0)

    def drop(self, names, limit=float("inf")):
        self.asked.append(set(names))
        return sum(self.errors[n] for n in names)


def _chain(name, count):
    """Return units each of which reads the one before."""
    tensors = [object() for _ in range(count + 1)]
    return [
        SimpleNamespace(name=f"{name}{i}", inputs=(tensors[i],), output=tensors[i + 1])
        for i in range(count)
    ]


def test_groups_are_regions_and_large_regions_are_split():
    found = [*_chain("a", 2), *_chain("b", 93), *_chain("c", 1)]
    sizes = [len(part) for part in sensitivity.groups(found)]
    assert sensitivity.groups(found)[0] == ["a0", "a1"]
    assert sizes == [2, *[2] * 46, 1, 1]


def _search(trial, limit, recut=sensitivity.drop_worst):
    return sensitivity.Search(set, trial, limit, recut)


def test_as_few_as_needed_go_back_found_by_bisection():
    errors = {f"n{i}": 0.001 * 2**i for i in range(10)}
    trial = Errors(errors)
    kept, noise = _search(trial, 0.02).shrink([[n] for n in errors])
    assert sum(errors[n] for n in kept) <= 0.02
    assert kept == {"n0", "n1", "n2", "n3"}
    assert noise == errors
    assert len(trial.asked) < 7


def test_nothing_stays_where_nothing_holds():
    trial = Errors({"a": 1.0, "b": 1.0})
    kept, _ = _search(trial, 0.01).shrink([["a"], ["b"]])
    assert kept == set()


def test_all_stay_where_the_metric_holds():
    kept, noise = _search(Errors({"a": 0.001}), 0.01).shrink([["a"]])
    assert (kept, noise) == ({"a"}, {})


def _keep(kept, shares, price):
    return kept


def test_what_went_with_others_comes_back_where_it_holds():
    trial = Errors({"a": 0.001, "b": 0.002, "c": 0.02, "d": 0.006})
    search = _search(trial, 0.01, _keep)
    kept = search.regain({"a"}, [["a"], ["b"], ["c"], ["d"]], trial.errors)
    assert kept == {"a", "b", "d"}


def test_what_is_no_faster_does_not_come_back():
    trial = Errors({"a": 0.001, "b": 0.002})
    search = _search(trial, 0.01, lambda kept, shares, price: kept - {"b"})
    assert search.regain({"a"}, [["a"], ["b"]], trial.errors) == {"a"}
    assert trial.asked == []


def test_only_so_many_are_tried(monkeypatch):
    monkeypatch.setattr(sensitivity, "MOST", 2)
    trial = Errors({f"n{i}": 0.001 * i for i in range(9)})
    search = _search(trial, 1.0, _keep)
    assert search.regain(set(), [[n] for n in trial.errors], trial.errors) == {"n0", "n1"}

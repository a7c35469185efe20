"""Lines of the graph beside its nodes: none is lost, and no two tensors share one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.cli.page import lanes


def node(reads: str, makes: str, graph: str = "") -> dict:
    return {
        "graph": graph,
        "op": "Add",
        "name": makes,
        "inputs": reads.split(),
        "outputs": makes.split(),
    }


def test_a_chain_is_one_line() -> None:
    found = lanes.rows([node("x", "a"), node("a w", "b"), node("b", "y")])
    assert [r.lane for r in found] == [0, 0, 0]
    assert [r.leave for r in found] == [[0], [0], []]
    assert all(not r.through for r in found)


def test_a_residual_connection_runs_beside_its_layers() -> None:
    found = lanes.rows([node("x", "a"), node("a", "b"), node("b", "c"), node("a c", "y")])
    assert [r.lane for r in found] == [0, 1, 1, 0]
    assert found[2].through == [0]
    assert sorted(found[3].enter) == [0, 1]


def test_bodies_are_laid_out_by_themselves() -> None:
    found = lanes.rows([node("x", "a"), node("q", "b", "If.then/"), node("a", "y")])
    assert found[2].enter == [0]
    assert found[1].through == []


@pytest.mark.parametrize("seed", range(20))
def test_lanes_of_any_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = []
    for i in range(60):
        reads = [f"t{j}" for j in rng.integers(0, i + 1, rng.integers(0, 4))]
        makes = [f"t{i + 1}", *([f"u{i}"] if rng.random() < 0.2 else [])]
        nodes.append({"graph": "", "op": "Add", "name": str(i), "inputs": reads, "outputs": makes})
    above: list[int] = []
    for row in lanes.rows(nodes):
        assert set(row.enter) <= set(above), "each line that enters was there above"
        assert set(row.through) <= set(above)
        below = [*row.through, *row.leave]
        assert len(set(below)) == len(below), "no two tensors share a lane"
        assert set(above) - set(row.enter) <= set(below), "no line ends but in a reader"
        above = below
    assert above == []
    assert lanes.width(lanes.rows(nodes)) <= (lanes.MOST + 1) * lanes.STEP


def test_constants_are_weights_and_left_out() -> None:
    constant = {**node("", "w"), "op": "Constant"}
    found = lanes.rows([constant, node("x", "a"), node("a w", "y")])
    assert [(r.lane, r.enter, r.leave) for r in found] == [(0, [], []), (0, [], [0]), (0, [0], [])]

"""The law of every rule: whatever the shapes, what is cut equals what is zeroed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prune.net import Net

from onnxopt.model import Model
from onnxopt.runtime import Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune.algebra import split, tail, unify
from onnxopt_passes.prune.analysis import analyse
from onnxopt_passes.prune.axes import ONE, Prod, Sum, Var, leaves, resolve, size
from onnxopt_passes.prune.certificate import Certifier


def law(model, seed, least=1):
    model = Model.from_proto(model)
    analysis = analyse(model)
    rng = np.random.default_rng(seed)
    keep = {}
    for group in analysis.free:
        stays = rng.random(group.size) < 0.6
        stays[rng.integers(group.size)] = True
        keep[group.name] = stays
    assert len(keep) >= least
    feeds = list(synthetic(model.export().inputs, n=2).feeds())
    proven, certificate = Certifier(model, feeds, Settings()).certify(keep)
    assert proven.keys() == keep.keys(), certificate.guilty


def between(middle, channels=12, least=1, seed=0):
    """Check the law on conv, some op, conv."""
    n = Net(2, 3, 6, 6, seed=seed)
    x, width = middle(n, n.conv("x", 3, channels), channels)
    law(n.build(n.conv(x, width, 5)), seed, least)


def pads(n, x, c):
    return n.op("Pad", x, n.ints(0, 2, 0, 0, 0, 3, 0, 0)), c + 5


def concat(n, x, c):
    return n.op("Concat", x, n.conv("x", 3, 7), n.relu(x), axis=1), 2 * c + 7


def split_uneven(n, x, c):
    a, b = n.op("Split", x, n.ints(5, c - 5), outputs=2, axis=1)
    return n.op("Concat", n.relu(b), a, axis=1), c


def split_equal(n, x, c):
    a, b = n.op("Split", x, outputs=2, axis=1)
    return n.op("Mul", a, n.op("Sigmoid", b)), c // 2


def sliced(n, x, c):
    return n.op("Slice", x, n.ints(2), n.ints(-3), n.ints(1)), c - 5


def every_second(n, x, c):
    return n.op("Slice", x, n.ints(0), n.ints(c), n.ints(1), n.ints(2)), c // 2


def gathered(n, x, c):
    order = [*range(c // 2, c), *range(c // 2)]
    return n.op("Gather", x, n.ints(*order), axis=1), c


def tiled(n, x, c):
    return n.op("Tile", x, n.ints(1, 2, 1, 1)), 2 * c


def scaled(n, x, c):
    return n.op("Div", n.op("PRelu", x, n.weight(c, 1, 1)), n.weight(c, 1, 1)), c


def squeezed(n, x, c):
    s = n.op("Squeeze", n.op("ReduceMean", x, axes=[2, 3]), n.ints(2, 3))
    s = n.op("Sigmoid", n.op("MatMul", s, n.weight(c, c)))
    return n.op("Mul", x, n.op("Unsqueeze", s, n.ints(2, 3))), c


def instance_norm(n, x, c):
    return n.op("InstanceNormalization", x, n.weight(c), n.weight(c)), c


def depth_to_space(n, x, c):
    return n.op("DepthToSpace", x, blocksize=2), c // 4


def resized(n, x, c):
    scales = n.const(np.array([1, 1, 2, 2], np.float32))
    return n.op("Resize", x, "", scales, mode="nearest"), c


def resized_to(n, x, c):
    return n.op("Resize", x, "", "", n.ints(2, c, 9, 9), mode="nearest"), c


def transposed(n, x, c):
    w = n.weight(c, 4, 2, 2)
    return n.op("ConvTranspose", x, w, group=2, strides=[2, 2]), 8


def einsum(n, x, c):
    return n.op("Einsum", x, n.weight(c, 8), equation="bchw,cd->bdhw"), 8


def dynamic_reshape(n, x, c):
    lengths = [n.op("Gather", n.op("Shape", x), n.ints(i), axis=0) for i in (0, 2, 3)]
    target = n.op("Concat", lengths[0], n.ints(2), n.ints(c // 2), *lengths[1:], axis=0)
    y = n.op("Mul", n.op("Reshape", x, target), n.weight(2, c // 2, 1, 1))
    return n.op("Reshape", y, n.op("Shape", x)), c


MIDDLES = [
    *(pads, concat, split_uneven, split_equal, sliced, every_second, gathered, tiled, scaled),
    *(squeezed, instance_norm, depth_to_space, resized, resized_to, transposed, einsum),
    dynamic_reshape,
]


@pytest.mark.parametrize("middle", MIDDLES, ids=lambda f: f.__name__)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(quarter=st.integers(3, 6), seed=st.integers(0, 99))
def test_law(middle, quarter, seed):
    between(middle, 4 * quarter, seed=seed)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(groups=st.integers(1, 4), each=st.integers(1, 4), many=st.integers(1, 3))
def test_law_of_grouped_convs(groups, each, many):
    def middle(n, x, c):
        return n.conv(x, c, groups * many, group=groups), groups * many

    if groups * each > 1:
        between(middle, groups * each)


@pytest.mark.parametrize(
    "middle",
    [
        lambda n, x, c: (n.op("Softmax", x, axis=1), c),
        lambda n, x, c: (n.op("LRN", x, size=3), c),
        lambda n, x, c: (n.op("Trilu", x), c),
    ],
    ids=["softmax", "lrn", "unknown"],
)
def test_blockers_freeze_and_say_why(middle):
    n = Net(2, 3, 6, 6)
    x, width = middle(n, n.conv("x", 3, 12), 12)
    n.nodes[1].name = "guilty"
    graph = n.build(n.conv(x, width, 5))
    analysis = analyse(Model.from_proto(graph))
    assert not analysis.free
    assert "guilty" in next(g.frozen for g in analysis.groups if g.size == 12)


def test_split_and_tail_refine_what_is_united():
    a, b = Var(12), Var(12)
    unify(a, b, "why")
    head, rest = tail(a, 4)
    assert (size(head), size(rest)) == (3, 4)
    first, _ = split(b, 8)
    assert resolve(first) == Prod((resolve(split(head, 2)[0]), resolve(rest)))


def test_what_does_not_fit_is_frozen_on_both_sides():
    a, b = Prod((Var(2), Var(6))), Prod((Var(3), Var(4)))
    unify(a, b, "no common factor")
    assert {v.frozen for v in (*leaves(a), *leaves(b))} == {"no common factor"}


def test_an_axis_never_contains_itself():
    a = Var(4)
    unify(a, Sum((ONE, Prod((a,)))), "sizes")
    assert a.root().frozen == "sizes"


@pytest.mark.parametrize(("opset", "attrs"), [(11, {}), (13, {}), (18, {"num_outputs": 2})])
def test_equal_parts_of_a_split_may_shrink_apart(opset, attrs):
    n = Net(2, 3, 6, 6)
    a, b = n.op("Split", n.conv("x", 3, 12), outputs=2, axis=1, **attrs)
    graph = n.build(n.conv(n.op("Concat", n.relu(b), a, axis=1), 12, 5))
    graph.opset_import[0].version = opset
    law(graph, seed=0, least=2)

"""Chains of Squeeze, Unsqueeze, Transpose and Reshape, drawn at random: the same in fewer nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session
from onnxopt_passes.clean import Clean

CHAINS = 60
"""Models of one seed."""

SYMBOLS = {3: "N", 4: "M"}
"""Sizes that a model may leave open."""


def _chain(rng):
    """Return a model of two to six ops on drawn axes, and its input."""
    shape = [int(d) for d in rng.choice([1, 1, 2, 3, 4, 5], rng.integers(2, 5))]
    x = rng.normal(size=shape).astype(np.float32)
    opened = [SYMBOLS.get(d, d) if rng.random() < 0.5 else d for d in shape]
    nodes, constants, now = [], [], list(shape)
    for i in range(int(rng.integers(2, 7))):
        ones = [k for k, d in enumerate(now) if d == 1]
        op = rng.choice(["Squeeze", "Unsqueeze", "Transpose", "Reshape"])
        inputs, attributes = [f"t{i}"], {}
        if op == "Squeeze" and ones:
            gone = sorted(rng.choice(ones, rng.integers(1, len(ones) + 1), replace=False).tolist())
            now = [d for k, d in enumerate(now) if k not in gone]
            inputs.append(_constant(constants, gone))
        elif op == "Unsqueeze" and len(now) < 6:
            at = int(rng.integers(0, len(now) + 1))
            now.insert(at, 1)
            inputs.append(_constant(constants, [at - len(now) if rng.random() < 0.3 else at]))
        elif op == "Reshape":
            now = [d for d in now if d != 1 or rng.random() < 0.5]
            wanted = list(now)
            if wanted and rng.random() < 0.7:
                wanted[int(rng.integers(len(wanted)))] = -1
            inputs.append(_constant(constants, wanted))
        else:
            op, perm = "Transpose", rng.permutation(len(now)).tolist()
            now = [now[k] for k in perm]
            attributes = {"perm": perm} if perm else {}
        nodes.append(helper.make_node(op, inputs, [f"t{i + 1}"], **attributes))
    nodes.append(helper.make_node("Neg", [nodes[-1].output[0]], ["y"]))
    ends = [helper.make_tensor_value_info("t0", 1, opened)]
    result = [helper.make_tensor_value_info("y", 1, [f"y{k}" for k in range(len(now))])]
    graph = helper.make_graph(nodes, "g", ends, result, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), x


def _constant(constants, values):
    constants.append(numpy_helper.from_array(np.array(values, np.int64), f"c{len(constants)}"))
    return constants[-1].name


@pytest.mark.parametrize("seed", range(6))
def test_chains_give_the_same_in_fewer_nodes(seed):
    rng = np.random.default_rng(seed)
    saved = 0
    for _ in range(CHAINS):
        proto, x = _chain(rng)
        model = Model.from_proto(proto)
        before = model.export()
        edits = Clean().run(model, Context())
        after = model.export()
        onnx.checker.check_model(after.whole(), full_check=True)
        want, got = (Session(m).run({"t0": x})["y"] for m in (before, after))
        np.testing.assert_array_equal(got, want)
        fewer = len(before.proto.graph.node) - len(after.proto.graph.node)
        assert fewer >= 0
        assert Clean().run(Model.from_exported(after), Context()) == 0
        saved += fewer if edits else 0
    assert saved > 2 * CHAINS


@pytest.mark.parametrize(
    ("ops", "left"),
    [
        ((("Squeeze", [1]), ("Unsqueeze", [1])), ["Neg"]),
        ((("Unsqueeze", [0]), ("Unsqueeze", [2])), ["Unsqueeze", "Neg"]),
        ((("Squeeze", [1]), ("Unsqueeze", [-1])), ["Squeeze", "Unsqueeze", "Neg"]),
        ((("Squeeze", [1]), ("Unsqueeze", [0])), ["Squeeze", "Unsqueeze", "Neg"]),
    ],
)
def test_axes_from_the_front_need_no_rank(ops, left):
    constants = []
    nodes = [
        helper.make_node(op, [f"t{i}", _constant(constants, named)], [f"t{i + 1}"])
        for i, (op, named) in enumerate(ops)
    ]
    nodes.append(helper.make_node("Neg", [f"t{len(ops)}"], ["y"]))
    ends = [helper.make_tensor_value_info(name, 1, None) for name in ("t0", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = Model.from_proto(proto)
    before = model.export()
    Clean().run(model, Context())
    after = model.export()
    assert [n.op_type for n in after.proto.graph.node] == left
    feed = {"t0": np.arange(6, dtype=np.float32).reshape(3, 1, 2)}
    want, got = (Session(m).run(feed)["y"] for m in (before, after))
    np.testing.assert_array_equal(got, want)

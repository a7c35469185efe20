"""Models of any number of nodes, made to see how time and memory grow with size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

OPSET = 17
WIDTH = 16
"""Elements of a row: small, so that nodes are what costs."""


class _Builder:
    """Collects nodes and constants, and counts the nodes of bodies too."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        name = f"{op.lower()}_{self.count}"
        self.count += 1
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add an initializer and return its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def model(self, output: str, shape: list[int | str]) -> onnx.ModelProto:
        """Return the model that maps `x` to `output`."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="last"))
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "generated", [x], [y], self.initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def chain(nodes: int) -> onnx.ModelProto:
    """One path: Relu, Identity, and Add of a constant, over and over."""
    build, at = _Builder(), "x"
    while build.count < nodes:
        step = build.constant(np.full(WIDTH, 1 / (1 + build.count), np.float32))
        at = build.add("Add", build.add("Identity", build.add("Relu", at)), step)
    return build.model(at, [1, WIDTH])


def ladder(nodes: int) -> onnx.ModelProto:
    """Two paths that join at every rung, each rung with a redundant pair of Transposes."""
    build, left, right = _Builder(), "x", "x"
    while build.count < nodes:
        turned = build.add("Transpose", build.add("Tanh", left), perm=[1, 0])
        back = build.add("Transpose", turned, perm=[1, 0])
        right = build.add("Sigmoid", right)
        left = build.add("Add", back, right)
    return build.model(left, [1, WIDTH])


def shapes(nodes: int) -> onnx.ModelProto:
    """Reshapes whose target is computed from the shape of their own input, batch unknown."""
    build, at = _Builder(), "x"
    zero = build.constant(np.array(0, np.int64))
    axis = build.constant(np.array([0], np.int64))
    width = build.constant(np.array([WIDTH], np.int64))
    while build.count < nodes:
        batch = build.add("Gather", build.add("Shape", at), zero)
        target = build.add("Concat", build.add("Unsqueeze", batch, axis), width, axis=0)
        at = build.add("Tanh", build.add("Reshape", at, target))
    return build.model(at, ["N", WIDTH])


def branches(nodes: int) -> onnx.ModelProto:
    """Ifs on the data, each with another If in it whose condition is a constant."""
    build, at = _Builder(), "x"
    zero = build.constant(np.array(0, np.float32))
    true = build.constant(np.array(True))
    while build.count < nodes:
        total = build.add("ReduceSum", at, keepdims=0)
        taken = _body(build, "Tanh", at)
        other = _body(build, "If", at, _body(build, "Sin", at), _body(build, "Cos", at), true)
        decided = build.add("Greater", total, zero)
        at = build.add("If", decided, then_branch=taken, else_branch=other)
    return build.model(at, [1, WIDTH])


def _body(
    build: _Builder,
    op: str,
    at: str,
    taken: onnx.GraphProto | None = None,
    other: onnx.GraphProto | None = None,
    decided: str = "",
) -> onnx.GraphProto:
    """Return a body: an op on an outer value (or an If), then an Identity."""
    name = f"body_{build.count}"
    build.count += 2
    inside = f"{name}_inside"
    if taken is None or other is None:
        first = helper.make_node(op, [at], [inside], name=inside)
    else:
        branch = {"then_branch": taken, "else_branch": other}
        first = helper.make_node(op, [decided], [inside], name=inside, **branch)
    last = helper.make_node("Identity", [inside], [name], name=name)
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH])
    return helper.make_graph([first, last], name, [], [value])


FAMILIES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "ladder": ladder,
    "shapes": shapes,
    "branches": branches,
}

"""GroupNormalization in the form that runs fastest.

GroupNormalization(x, w, b)  ->  Reshape(InstanceNormalization(Reshape(x), 1, 0)) * w + b

The inner Reshape makes [batch, groups, rest]; w and b are by channel. Before opset 21 they are by
group, and go into the InstanceNormalization; so they do where each group is one channel, and no
Reshape is needed. onnxruntime has no kernel for GroupNormalization: it takes its definition, which
makes more passes over the tensor.

For onnxruntime, where the rest of a network has w and b behind the second Reshape:

c * w + b  ->  BatchNormalization(c, w, b, mean 0, variance 1, epsilon 0)

one pass instead of two. Only float32, which onnxruntime has InstanceNormalization for, and a known
number of channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import normal, scalars, term

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

BY_CHANNEL = 21
"""From this opset on, GroupNormalization has one weight a channel; before, one a group."""


def lower_group_norm(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a GroupNormalization as an InstanceNormalization of groups."""
    x, weight, bias = node.inputs
    out, dims = node.outputs[0], shapes.dims(x)
    groups = match.attribute(node, "num_groups", None)
    if dims is None or len(dims) < 3 or not isinstance(groups, int):
        return match.miss("its rank is not known")
    if scalars.kind(x, out) != np.float32:
        return match.miss("it is not float32")
    if match.quantized(x, out):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    attributes = {"epsilon": match.attribute(node, "epsilon", 1e-5)}
    if dims[1] == groups:
        node.op, node.attrs = "InstanceNormalization", attributes
        return True
    whole = _restored(dims)
    if whole is None:
        return match.miss("more than one of its sizes is not known")
    inner, outer = [weight, bias], []
    if graph.opset >= BY_CHANNEL:
        values = [match.constant(t) for t in (weight, bias)]
        if any(v is None or v.shape != (dims[1],) for v in values):
            return match.miss("its weights are not constants")
        if not scalars.spare(weight) or not scalars.spare(bias):
            return match.miss("others read its weights")
        wide = (-1, *(1,) * (len(dims) - 2))
        outer = [v.reshape(wide) for v in values if v is not None]
        inner = [
            ir.Constant(f"{out.name}.ones", np.ones(groups, np.float32)),
            ir.Constant(f"{out.name}.zeros", np.zeros(groups, np.float32)),
        ]
    _write(graph, node, x, (groups, whole, inner, outer), attributes)
    return True


def _restored(dims: tuple[int | str | None, ...]) -> list[int] | None:
    """Return the constant shape that brings [batch, groups, rest] back, None if there is none."""
    whole = [0, *(d if isinstance(d, int) else -1 for d in dims[1:])]
    return whole if whole.count(-1) < 2 and 0 not in whole[1:] else None


def _write(
    graph: gs.Graph,
    node: gs.Node,
    x: gs.Tensor,
    parts: tuple[int, list[int], list[gs.Tensor], list[np.ndarray]],
    attributes: dict[str, float],
) -> None:
    groups, whole, inner, outer = parts
    out = node.outputs[0]
    dims = shapes.dims(x)
    shape = ir.Constant(f"{out.name}.groups", np.array([0, groups, -1], np.int64))
    back = ir.Constant(f"{out.name}.shape", np.array(whole, np.int64))
    grouped = _tensor(f"{out.name}.grouped", (None if dims is None else dims[0], groups, None))
    normed = _tensor(f"{out.name}.normed", shapes.dims(grouped))
    match.insert(graph, ir.Node("Reshape", f"{out.name}.grouped", {}, [x, shape], [grouped]))
    name = f"{out.name}.normed"
    op = "InstanceNormalization"
    match.insert(graph, ir.Node(op, name, attributes, [grouped, *inner], [normed]))
    if not outer:
        scalars.finish(graph, node, ir.Node("Reshape", node.name, inputs=[normed, back]))
        return
    weight, bias = (
        ir.Constant(f"{out.name}.{what}", values)
        for what, values in zip(("weight", "bias"), outer, strict=True)
    )
    restored = scalars.step(graph, "Reshape", f"{out.name}.restored", x, normed, back)
    product = scalars.step(graph, "Mul", f"{out.name}.product", x, restored, weight)
    scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[product, bias]))


def _tensor(name: str, dims: tuple[int | str | None, ...] | None) -> gs.Tensor:
    made = ir.Variable(name)
    made.inferred = (np.dtype(np.float32), dims)  # type: ignore[attr-defined]
    return made


def weigh_by_batch_norm(graph: gs.Graph, node: gs.Node) -> bool:
    """Write the weight and bias behind normalised groups as one BatchNormalization."""
    normed = match.sole(graph, node.inputs[0], "InstanceNormalization")
    out = node.outputs[0]
    dims = shapes.dims(out)
    if normed is None or dims is None or len(dims) < 3 or not isinstance(dims[1], int):
        return False
    channels = dims[1]

    def by_channel(values: np.ndarray) -> np.ndarray | None:
        vector = term.vector(values, out)
        return None if vector is None or vector[1] != 1 else vector[0]

    last, weight = normal.taken(graph, node, "Mul", by_channel)
    last, bias = normal.taken(graph, last, "Add", by_channel)
    if weight is None or bias is None or scalars.kind(out, last.outputs[0]) != np.float32:
        return False
    if match.quantized(out, last.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    name = last.outputs[0].name
    size = ir.Constant(f"{name}.channels", np.array([channels], np.int64))
    inputs: list[gs.Tensor] = [
        out,
        ir.Constant(f"{name}.weight", weight),
        ir.Constant(f"{name}.bias", bias),
    ]
    for what, value in (("mean", 0), ("variance", 1)):
        filled = _tensor(f"{name}.{what}", (channels,))
        value_ = ir.Constant(f"{name}.{what}.value", np.array([value], np.float32))
        made = ir.Node("ConstantOfShape", filled.name, {"value": value_}, [size], [filled])
        match.insert(graph, made)
        inputs.append(filled)
    new = ir.Node("BatchNormalization", last.name, {"epsilon": 0.0}, inputs)
    return scalars.finish(graph, last, new)


RULES: tuple[Rule, ...] = (Rule("group_norm", ("GroupNormalization",), lower_group_norm),)
"""Before those that would take its constants away."""

ORT_CPU_RULES: tuple[Rule, ...] = (Rule("group_affine", ("Reshape",), weigh_by_batch_norm),)
"""After the others."""

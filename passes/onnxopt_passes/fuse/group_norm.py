"""GroupNormalization in the form that runs fastest.

GroupNormalization(x, w, b)  ->  Reshape(InstanceNormalization(Reshape(x), 1, 0)) * w + b

The inner Reshape makes [batch, groups, rest]; w and b are by channel. Before opset 21 they are by
group, and go into the InstanceNormalization; so they do where each group is one channel, and no
Reshape is needed. onnxruntime has no kernel for GroupNormalization: it takes its definition, which
makes more passes over the tensor. The file grows by a few hundred bytes for each, so all of this is
undone if it would be larger than the run's source: `keep` of `tentative`.

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
from onnxopt_passes.fuse import normal, scalars, tentative, term

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model

EPSILON = 1e-5
"""What GroupNormalization adds to the variance where it does not say."""

BY_CHANNEL = 21
"""From this opset on, GroupNormalization has one weight a channel; before, one a group."""


def lower_group_norms(model: Model, ctx: Context, room: int) -> int:
    """Write all GroupNormalizations as InstanceNormalizations of groups; return how many.

    Args:
        model: Edited.
        ctx: Asked before each edit; told why if the file would take too many bytes.
        room: Bytes that the model may take.
    """
    named = (n for _, graph in model.graphs() for n in graph.nodes)
    if not any(match.is_op(node, "GroupNormalization") for node in named):
        return 0

    def judge(before: Exported, after: Exported, made: list[str]) -> str:
        return tentative.oversize(before, after, room)

    shapes.infer(model)
    rule = Rule("group_norm", ("GroupNormalization",), lower_group_norm)
    return tentative.keep(model, rule, ctx, judge)


def lower_single_channels(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a GroupNormalization whose groups are single channels as InstanceNormalization."""
    dims = _dims(node)
    groups = match.attribute(node, "num_groups", None)
    if dims is None or not isinstance(groups, int) or dims[1] != groups:
        return False
    node.attrs = {"epsilon": match.attribute(node, "epsilon", EPSILON)}
    node.op = "InstanceNormalization"
    return True


def lower_group_norm(graph: gs.Graph, node: gs.Node) -> bool:
    """Write a GroupNormalization as an InstanceNormalization of groups."""
    dims = _dims(node)
    groups = match.attribute(node, "num_groups", None)
    if dims is None or not isinstance(groups, int) or dims[1] == groups:
        return False
    whole = _restored(dims)
    if whole is None:
        return match.miss("more than one of its sizes is not known")
    inner, outer = node.inputs[1:], []
    if graph.opset >= BY_CHANNEL:
        outer = _by_channel(node, dims)
        if not outer:
            return False
        name = node.outputs[0].name
        inner = [
            ir.Constant(f"{name}.ones", np.ones(groups, np.float32)),
            ir.Constant(f"{name}.zeros", np.zeros(groups, np.float32)),
        ]
    _write(graph, node, [groups, *whole], inner, outer)
    return True


def _dims(node: gs.Node) -> tuple[int | str | None, ...] | None:
    """Return the dimensions of what is normalised, if it can be by an InstanceNormalization."""
    x, out = node.inputs[0], node.outputs[0]
    dims = shapes.dims(x)
    if dims is None or len(dims) < 3:
        match.miss("its rank is not known")
    elif scalars.kind(x, out) != np.float32:
        match.miss("it is not float32")
    elif match.quantized(x, out):
        match.miss("it stands between a DequantizeLinear and a QuantizeLinear")
    else:
        return dims
    return None


def _by_channel(node: gs.Node, dims: tuple[int | str | None, ...]) -> list[np.ndarray]:
    """Return weight and bias as [channels, 1, ...]; empty if they cannot be written anew."""
    found = []
    for tensor in node.inputs[1:]:
        values = match.constant(tensor)
        if values is None or values.shape != (dims[1],) or not scalars.spare(tensor):
            match.miss("its weights are not constants of its own")
            return []
        found.append(values.reshape(-1, *(1,) * (len(dims) - 2)))
    return found


def _restored(dims: tuple[int | str | None, ...]) -> list[int] | None:
    """Return the constant shape that brings [batch, groups, rest] back, None if there is none."""
    whole = [0, *(d if isinstance(d, int) else -1 for d in dims[1:])]
    return whole if whole.count(-1) < 2 and 0 not in whole[1:] else None


def _write(
    graph: gs.Graph,
    node: gs.Node,
    sizes: list[int],
    inner: list[gs.Tensor],
    outer: list[np.ndarray],
) -> None:
    """Put the nodes in the place of a GroupNormalization.

    Args:
        graph: The graph.
        node: The GroupNormalization.
        sizes: How many groups there are, and the shape that brings its output back.
        inner: Weight and bias by group.
        outer: Weight and bias by channel; empty if there are none.
    """
    x, out = node.inputs[0], node.outputs[0]
    name, groups = out.name, sizes[0]
    shape = ir.Constant(f"{name}.groups", np.array([0, groups, -1], np.int64))
    back = ir.Constant(f"{name}.shape", np.array(sizes[1:], np.int64))
    batch = (shapes.dims(x) or (None,))[0]
    grouped, normed = (
        _tensor(f"{name}.{what}", (batch, groups, None)) for what in ("grouped", "normed")
    )
    match.insert(graph, ir.Node("Reshape", grouped.name, {}, [x, shape], [grouped]))
    attributes = {"epsilon": match.attribute(node, "epsilon", EPSILON)}
    op = "InstanceNormalization"
    match.insert(graph, ir.Node(op, normed.name, attributes, [grouped, *inner], [normed]))
    if not outer:
        scalars.finish(graph, node, ir.Node("Reshape", node.name, inputs=[normed, back]))
        return
    weight = ir.Constant(f"{name}.weight", outer[0])
    bias = ir.Constant(f"{name}.bias", outer[1])
    restored = scalars.step(graph, "Reshape", f"{name}.restored", x, normed, back)
    product = scalars.step(graph, "Mul", f"{name}.product", x, restored, weight)
    scalars.finish(graph, node, ir.Node("Add", node.name, inputs=[product, bias]))


def _tensor(name: str, dims: tuple[int | str | None, ...] | None) -> gs.Tensor:
    made = ir.Variable(name)
    shapes.note(made, np.dtype(np.float32), dims)
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


RULES: tuple[Rule, ...] = (Rule("group_channels", ("GroupNormalization",), lower_single_channels),)
"""The part that does not make the file grow."""

ORT_CPU_RULES: tuple[Rule, ...] = (Rule("group_affine", ("Reshape",), weigh_by_batch_norm),)
"""After the others."""

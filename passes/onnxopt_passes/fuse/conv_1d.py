"""Conv over [N, C, L]  ->  Squeeze(Conv over [N, C, 1, L])        with windows [1, K].

The same sums. onnxruntime has its blocked kernels, and the fusion of activations and sums into
them, for images only; a depthwise Conv of one axis it computes channel by channel. Images stay
images from one Conv to the next:

f(Squeeze(x))                   ->  Squeeze(f(x))           elementwise ops, pools
f(Squeeze(x), Squeeze(y))       ->  Squeeze(f(x, y))        Add, Mul
Unsqueeze(Squeeze(x))           ->  x

For float32 with constant weights that nobody else reads, from opset 13 on, and for `ort-cpu` only:
kept where it measures faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

AXES_AS_INPUT = 13
"""Squeeze and Unsqueeze take their axes as an input from this opset on."""

HEIGHT = 2
"""Where the axis of size 1 comes in."""

RANK = 3
"""Of what gets an axis more."""

UNARY = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Clip", "Elu", "Gelu")
"""Ops that look at each element of their first input by itself."""

BINARY = ("Add", "Mul")
"""Ops of two images, or of one and a number."""

POOLS = ("MaxPool", "AveragePool")
"""Ops that have a window as Conv has."""

LIFTED = ("Conv", *UNARY, *BINARY, *POOLS)
"""Ops that get to work on images."""


def lift_conv(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a Conv over one axis work on images of height 1."""
    weight = match.constant(node.inputs[1])
    if graph.opset < AXES_AS_INPUT or weight is None or weight.ndim != RANK:
        return False
    if weight.dtype != np.float32 or match.quantized(node.inputs[0], node.outputs[0]):
        return False
    held = node.inputs[1]
    if len(held.outputs) != 1 or match.fetched(held):
        return match.miss("others read its weights")
    wide = _wide(node)
    if wide is None:
        return False

    x, out = node.inputs[0], node.outputs[0]
    image = _image(f"{out.name}.image", out)
    kernel = ir.Constant(f"{out.name}.weight", weight[:, :, None, :])
    node.attrs.clear()
    node.attrs.update(wide)
    node.inputs = [_raised(graph, x, f"{out.name}.input"), kernel, *node.inputs[2:]]
    node.outputs = [image]
    _squeeze(graph, image, out)
    return True


def lift_other(graph: gs.Graph, node: gs.Node) -> bool:
    """Let another op work on the images that were squeezed before it."""
    count = 2 if node.op in BINARY else 1
    above = [_squeezed(graph, t) for t in node.inputs[:count]]
    if not any(t is not None for t in above) or len(node.outputs) != 1:
        return False
    images = [new or old for new, old in zip(above, node.inputs, strict=False)]
    if any(new is None and not _number(old) for new, old in zip(above, images, strict=True)):
        return False
    wide = _wide(node) if node.op in POOLS else node.attrs
    if wide is None:
        return False

    out = node.outputs[0]
    image = _image(f"{out.name}.image", out)
    node.attrs = dict(wide)
    node.inputs = [*images, *node.inputs[count:]]
    node.outputs = [image]
    _squeeze(graph, image, out)
    return True


def _number(tensor: gs.Tensor) -> bool:
    """Whether a tensor is one number that widens no image."""
    values = match.constant(tensor)
    return values is not None and values.size == 1 and values.ndim <= RANK


def _squeezed(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return the image that was squeezed to a tensor by one of our Squeezes."""
    node = match.producer(tensor)
    if node is None or not match.is_op(node, "Squeeze") or match.fetched(tensor):
        return None
    image = node.inputs[0]
    dims = shapes.dims(image)
    if not match.here(graph, node) or match.integers(node, 1, "axes") != [HEIGHT]:
        return None
    if dims is None or len(dims) != RANK + 1 or not match.is_op(match.producer(image), *LIFTED):
        return None
    return image


def _raised(graph: gs.Graph, x: gs.Tensor, name: str) -> gs.Tensor:
    """Return a tensor as an image of height 1."""
    before = _squeezed(graph, x)
    if before is not None:
        return before
    image = _image(name, x)
    match.insert(graph, ir.Node("Unsqueeze", "", {}, [x, _axes(graph)], [image]))
    return image


def _squeeze(graph: gs.Graph, image: gs.Tensor, out: gs.Tensor) -> None:
    match.insert(graph, ir.Node("Squeeze", "", {}, [image, _axes(graph)], [out]))


def _axes(graph: gs.Graph) -> gs.Constant:
    """Return the one constant that all Squeezes of a graph read."""
    axes: gs.Constant | None = ir.carried(graph, "height", None)
    if axes is None:
        axes = ir.Constant("height", np.array([HEIGHT], np.int64))
        graph.height = axes  # type: ignore[attr-defined]
    return axes


def _image(name: str, like: gs.Tensor) -> ir.Variable:
    """Return a new tensor of the shape of another, with an axis of size 1 more."""
    image = ir.Variable(name, dtype=np.dtype(np.float32))
    dims = shapes.dims(like)
    wide = (None, None, 1, None) if dims is None else (*dims[:HEIGHT], 1, *dims[HEIGHT:])
    shapes.note(image, np.dtype(np.float32), wide)
    return image


def _wide(node: gs.Node) -> dict[str, object] | None:
    """Return the attributes of a Conv or pool over one axis, with an axis of height 1 before it."""
    neutral = {"kernel_shape": [1], "strides": [1], "dilations": [1], "pads": [0]}
    found: dict[str, object] = {}
    for name, value in node.attrs.items():
        if name not in neutral:
            found[name] = value
            continue
        if not isinstance(value, list) or len(value) != (2 if name == "pads" else 1):
            return None
        front = neutral[name]
        found[name] = [*front, value[0], *front, value[1]] if name == "pads" else [*front, *value]
    return found


def lift(graph: gs.Graph, node: gs.Node) -> bool:
    """Raise a node over one axis to images."""
    return lift_conv(graph, node) if node.op == "Conv" else lift_other(graph, node)


ORT_CPU_RULES: tuple[Rule, ...] = (Rule("conv_1d", LIFTED, lift),)
"""The rule of this file."""

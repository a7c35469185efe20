"""A block with a shortcut between two layers, and samples of it, for tests of pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx.parser

from onnxopt import Model
from onnxopt.model import ir
from onnxopt.samples.base import Sample, Samples
from onnxopt.statistics import linear
from onnxopt.testing import fill
from onnxopt_passes.prune.groups import Group, Member, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,6,5,5] x) => (float[N,4] y)
   <float[8,6,1,1] w0, float[8] b0, float[12,8,3,3] w1, float[12] b1, float[8,12,3,3] w2,
    float[8] b2, float[8,4] w3, float[4] b3>
{
   c0 = Conv(x, w0, b0)
   s = Relu(c0)
   c1 = Conv<pads=[1,1,1,1]>(s, w1, b1)
   r1 = Relu(c1)
   c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
   sum = Add(c2, s)
   r2 = Relu(sum)
   p = GlobalAveragePool(r2)
   f = Flatten(p)
   y = Gemm(f, w3, b3)
}
"""


def residual() -> Model:
    """Return the block; random weights, spread like trained ones."""
    model = Model.from_proto(fill(onnx.parser.parse_model(RESIDUAL)))
    for node in model.graph.nodes:
        if node.op in ("Conv", "Gemm"):
            w = node.inputs[1].values
            fan = w[0].size if node.op == "Conv" else len(w)
            node.inputs[1].values = (w / w.std() * (2 / fan) ** 0.5).astype(np.float32)
    return model


def inner(model: Model) -> Group:
    """Return the channels between the two convolutions of the branch."""
    c1, c2 = (layer for layer in linear.find_all(model.graph) if layer.name in ("c1", "c2"))
    columns = np.arange(12)[:, None]
    members = (
        Member(c1.node, c1.weight, 0, Role.PRODUCER, columns),
        Member(c1.node, c1.node.inputs[2], 0, Role.PASS, columns),
        Member(c2.node, c2.weight, 1, Role.CONSUMER, columns),
    )
    return Group("c1", 12, members)


def spine(model: Model) -> Group:
    """Return the channels of the sum that the branch is added to."""
    layers = {layer.name: layer for layer in linear.find_all(model.graph)}
    columns = np.arange(8)[:, None]
    made = [layers["c0"], layers["c2"]]
    members = [Member(x.node, x.weight, 0, Role.PRODUCER, columns) for x in made]
    members += [Member(x.node, x.node.inputs[2], 0, Role.PASS, columns) for x in made]
    read = [(layers["c1"], 1), (layers["y"], 0)]
    members += [Member(x.node, x.weight, axis, Role.CONSUMER, columns) for x, axis in read]
    return Group("c0", 8, tuple(members))


def sliced(model: Model, keeps: Mapping[str, np.ndarray]) -> Model:
    """Return the model without the channels of these groups that do not stay."""
    found = model.clone()
    weights = {t.name: t for n in found.graph.nodes for t in n.inputs if isinstance(t, ir.Constant)}
    for group in (inner(model), spine(model)):
        for member in group.members if group.name in keeps else ():
            weight = weights[member.constant.name]
            weight.values = np.take(weight.values, keeps[group.name], axis=member.axis)
    return found.clone()


def samples_of(n: int, shape: tuple[int, ...] = (1, 6, 5, 5), seed: int = 0) -> Samples:
    """Return samples of x whose channels are correlated, as activations are."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).normal(0, 1, (shape[1], 3))
    flat = [mix @ rng.normal(0, 1, (3, int(np.prod(shape[2:])))) for _ in range(n)]
    noise = [rng.normal(0, 0.1, shape) for _ in range(n)]
    arrays = [(f.reshape(shape) + e).astype(np.float32) for f, e in zip(flat, noise, strict=True)]
    return Samples(
        lambda: ((lambda a=a: Sample({"x": a})) for a in arrays), "drawn", length=len(arrays)
    )

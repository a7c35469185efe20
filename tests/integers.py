"""Models that are quantized, and what is looked at behind that."""

from __future__ import annotations

from collections import Counter

from onnxopt import deployed
from onnxopt.parity import compare
from onnxopt.runtime import Session, Settings

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

RESIDUAL = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w1, float[8,8,3,3] w2, float[8] b1, float[8] b2> {
   c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
   r1 = Relu(c1)
   c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
   a = Add(c2, r1)
   y = Relu(a)
}"""
)

SILU = (
    HEAD
    + """g (float[1,8,12,12] x) => (float[1,8,12,12] y) <float[8,8,3,3] w1, float[8,8,1,1] w2> {
   c = Conv<pads=[1,1,1,1]>(x, w1)
   s = Sigmoid(c)
   m = Mul(c, s)
   y = Conv(m, w2)
}"""
)


def ops(exported):
    """Return how often each operator is in a model."""
    return Counter(n.op_type for n in exported.proto.graph.node)


def deployed_ops(exported):
    """Return the same of what onnxruntime makes of it."""
    return Counter(n.op_type for n in deployed.rewritten(exported, Settings()).graph.node)


def noise(before, after, feed, optimize=False):
    """Return the largest drift of the outputs."""
    want = Session(before).run(feed)
    got = Session(after, Settings(optimize)).run(feed)
    return max(d.drift for d in compare(want, got).values())

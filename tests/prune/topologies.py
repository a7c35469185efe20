"""The eighteen networks of the survey that the algebra of axes comes from, with random weights."""

import numpy as np
from prune.net import Net


def plain():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 32))
    x = n.relu(n.conv(x, 32, 64))
    x = n.relu(n.conv(x, 64, 64))
    return n.build(n.head(x, 64))


def resnet(norm=False, batch=1):
    n = Net(batch, 3, 8, 8)

    def unit(x, a, b):
        x = n.conv(x, a, b)
        return n.norm(x, b) if norm else x

    x = n.relu(unit("x", 3, 32))
    for a, b in ((32, 32), (32, 64)):
        y = unit(n.relu(unit(x, a, b)), b, b)
        x = n.relu(n.op("Add", y, x if a == b else n.conv(x, a, b, 1)))
    return n.build(n.head(x, 64))


def resnet_bn():
    return resnet(norm=True)


def mobilenet_v2():
    n = Net(1, 3, 8, 8)
    x = n.op("Clip", n.conv("x", 3, 24), n.const(np.float32(0)), n.const(np.float32(6)))
    for _ in range(2):
        y = n.relu(n.conv(x, 24, 144, 1))
        y = n.relu(n.conv(y, 144, 144, group=144))
        x = n.op("Add", x, n.conv(y, 144, 24, 1))
    return n.build(n.head(n.conv(x, 24, 128, 1), 128))


def mobilenet_v3():
    n = Net(1, 3, 8, 8)
    x = n.op("HardSwish", n.conv("x", 3, 24))
    for _ in range(2):
        y = n.op("HardSwish", n.conv(x, 24, 144, 1))
        y = n.conv(y, 144, 144, group=144)
        s = n.relu(n.conv(n.op("GlobalAveragePool", y), 144, 40, 1))
        y = n.op("Mul", y, n.op("HardSigmoid", n.conv(s, 40, 144, 1)))
        x = n.op("Add", x, n.conv(y, 144, 24, 1))
    return n.build(n.head(x, 24))


def densenet():
    n = Net(1, 3, 8, 8)
    x, c = n.conv("x", 3, 32), 32
    for _ in range(3):
        y = n.conv(n.relu(n.norm(x, c)), c, 16)
        x, c = n.op("Concat", x, y, axis=1), c + 16
    return n.build(n.head(n.relu(n.norm(x, c)), c))


def flatten():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 32))
    x = n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = n.op("Flatten", n.relu(n.conv(x, 32, 64)))
    x = n.relu(n.op("Gemm", x, n.weight(1024, 128), n.weight(128)))
    return n.build(n.op("Gemm", x, n.weight(128, 10)))


def shufflenet():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 32))
    x = n.relu(n.conv(x, 32, 64, 1, group=4))
    x = n.op("Transpose", n.reshape(x, 1, 4, 16, 8, 8), perm=[0, 2, 1, 3, 4])
    x = n.conv(n.reshape(x, 1, 64, 8, 8), 64, 64, group=64)
    return n.build(n.head(n.relu(n.conv(x, 64, 64, 1, group=4)), 64))


def c2f():
    n = Net(1, 3, 8, 8)

    def silu(x, a, b, k=3):
        y = n.conv(x, a, b, k)
        return n.op("Mul", y, n.op("Sigmoid", y))

    x = silu("x", 3, 96)
    a, b = n.op("Split", silu(x, 96, 96, 1), n.ints(48, 48), outputs=2, axis=1)
    c = n.op("Add", b, silu(silu(b, 48, 48), 48, 48))
    x = silu(n.op("Concat", a, b, c, axis=1), 144, 96, 1)
    return n.build(n.conv(x, 96, 12, 1))


def vit(fused=False, dynamic=False):
    tokens = "T" if dynamic else 9
    n = Net(1, tokens, 48)
    d, h = 64, 4
    x = n.linear("x", 48, d)
    for _ in range(2):
        y = n.layer_norm(x, d)
        if fused:
            t = n.op(
                "Transpose", n.reshape(n.linear(y, d, 3 * d), 1, -1, 3, h, 16), perm=[2, 0, 3, 1, 4]
            )
            q, k, v = (n.op("Gather", t, n.const(np.int64(i)), axis=0) for i in range(3))
        else:
            q, k, v = (
                n.op("Transpose", n.reshape(n.linear(y, d, d), 1, -1, h, 16), perm=[0, 2, 1, 3])
                for _ in range(3)
            )
        s = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2]))
        s = n.op("Softmax", n.op("Mul", s, n.const(np.float32(0.25))), axis=-1)
        o = n.op("Transpose", n.op("MatMul", s, v), perm=[0, 2, 1, 3])
        x = n.op("Add", x, n.linear(n.reshape(o, 1, -1, d), d, d))
        y = n.linear(n.layer_norm(x, d), d, 2 * d)
        half = n.op("Mul", y, n.const(np.float32(0.5)))
        erf = n.op("Erf", n.op("Div", y, n.const(np.float32(1.41421356))))
        y = n.op("Mul", half, n.op("Add", erf, n.const(np.float32(1))))
        x = n.op("Add", x, n.linear(y, 2 * d, d))
    return n.build(n.linear(n.layer_norm(x, d), d, 10))


def vit_fused():
    return vit(fused=True)


def gqa():
    n = Net(1, 6, 8)
    h = n.linear("x", 8, 64)

    def heads(x, count):
        return n.op("Transpose", n.reshape(x, 1, 6, count, 16), perm=[0, 2, 1, 3])

    def repeat(x):
        x = n.op("Expand", n.op("Unsqueeze", x, n.ints(2)), n.ints(1, 2, 2, 6, 16))
        return n.reshape(x, 1, 4, 6, 16)

    q = heads(n.op("MatMul", h, n.weight(64, 64)), 4)
    k, v = (repeat(heads(n.op("MatMul", h, n.weight(64, 32)), 2)) for _ in range(2))
    s = n.op("Softmax", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    o = n.reshape(n.op("Transpose", n.op("MatMul", s, v), perm=[0, 2, 1, 3]), 1, 6, 64)
    x = n.op("Add", h, n.op("MatMul", o, n.weight(64, 64)))
    gate, up = (n.op("MatMul", x, n.weight(64, 256)) for _ in range(2))
    y = n.op("Mul", n.op("Mul", gate, n.op("Sigmoid", gate)), up)
    return n.build(n.linear(n.op("MatMul", y, n.weight(256, 64)), 64, 10))


def lstm(kind="LSTM", directions=1):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    n = Net(5, 1, 16)
    x, width = "x", 16
    for _ in range(2):
        w = n.weight(directions, gates * 32, width)
        r = n.weight(directions, gates * 32, 32)
        b = n.weight(directions, 2 * gates * 32)
        way = "bidirectional" if directions == 2 else "forward"
        y, _ = n.op(kind, x, w, r, b, outputs=2, hidden_size=32, direction=way)
        x = n.reshape(n.op("Transpose", y, perm=[0, 2, 1, 3]), 5, 1, 32 * directions)
        width = 32 * directions
    return n.build(n.linear(x, width, 10))


def group_norm():
    n = Net(1, 3, 8, 8)
    x = n.conv("x", 3, 32)
    for _ in range(2):
        y = n.reshape(x, 0, 8, -1)
        y = n.op("InstanceNormalization", y, n.weight(8), n.weight(8))
        y = n.reshape(y, 1, 32, 8, 8)
        y = n.op("Add", n.op("Mul", y, n.weight(32, 1, 1)), n.weight(32, 1, 1))
        x = n.conv(n.relu(y), 32, 32)
    return n.build(n.head(x, 32))


def pixel_shuffle():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv(n.relu(n.conv("x", 3, 32)), 32, 64))
    x = n.op("DepthToSpace", x, blocksize=2, mode="CRD")
    x = n.op("SpaceToDepth", n.relu(n.conv(x, 16, 32)), blocksize=2)
    return n.build(n.conv(x, 128, 3))


def shared():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 128))
    w, b = n.weight(128, 128, 3, 3), n.weight(128)
    for _ in range(2):
        x = n.relu(n.op("Conv", x, w, b, pads=[1, 1, 1, 1]))
    return n.build(n.head(x, 128))


def grouped():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    x = n.relu(n.conv(x, 64, 64, group=8))
    return n.build(n.head(n.relu(n.conv(x, 64, 64, group=4)), 64))


def gather_shuffle():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 32))
    x = n.op("Gather", x, n.ints(*np.arange(32).reshape(2, 16).T.reshape(-1).tolist()), axis=1)
    a = n.op("Slice", x, n.ints(0), n.ints(16), n.ints(1))
    b = n.op("Slice", x, n.ints(16), n.ints(32), n.ints(1))
    x = n.op("Concat", n.relu(n.conv(a, 16, 32)), b, axis=1)
    return n.build(n.head(n.conv(x, 48, 64), 64))


LISTED = {
    plain: 0.26,
    resnet: 0.26,
    resnet_bn: 0.26,
    mobilenet_v2: 0.32,
    mobilenet_v3: 0.30,
    densenet: 0.28,
    flatten: 0.26,
    shufflenet: 0.22,
    c2f: 0.27,
    vit: 0.45,
    vit_fused: 0.45,
    lstm: 0.32,
    shared: 0.26,
    group_norm: 0.27,
    pixel_shuffle: 0.33,
    gqa: 0.25,
    gather_shuffle: 0.43,
    grouped: 0.12,
}
"""Networks, and the share of their parameters that half of each group may leave.

The shares are those that the survey's prototype left of its graphs of these kinds. What cannot be
halved twice, the first layer's inputs, the last one's outputs, biases and depthwise kernels, weighs
more the narrower a network is; these are as wide as it takes for the shares to be comparable.
"""

"""Convolutional networks beyond those of the survey, with random weights."""

import numpy as np
from prune.net import Net


def padded_shortcut():
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 16))
    y = n.conv(n.relu(n.conv(x, 16, 32)), 32, 32)
    x = n.op("Pad", x, n.ints(0, 8, 0, 0, 0, 8, 0, 0))
    return n.build(n.head(n.relu(n.op("Add", x, y)), 32))


def unet():
    n = Net(1, 3, 8, 8)
    a = n.relu(n.conv("x", 3, 16))
    b = n.relu(n.conv(n.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 16, 32))
    up = n.op("ConvTranspose", b, n.weight(32, 16, 2, 2), n.weight(16), strides=[2, 2])
    x = n.relu(n.conv(n.op("Concat", a, up, axis=1), 32, 16))
    return n.build(n.conv(x, 16, 2, 1))


def channels_last():
    n = Net(1, 8, 8, 3)
    x = n.op("Transpose", "x", perm=[0, 3, 1, 2])
    x = n.op("Transpose", n.conv(x, 3, 32), perm=[0, 2, 3, 1])
    x = n.relu(n.op("Mul", x, n.weight(32)))
    x = n.conv(n.op("Transpose", x, perm=[0, 3, 1, 2]), 32, 64)
    x = n.op("ReduceMean", n.op("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    return n.build(n.linear(x, 64, 10))


def quantized():
    n = Net(1, 3, 8, 8)
    scale, zero = n.const(np.float32(0.05)), n.const(np.uint8(128))
    w = n.const(n.rng.integers(-127, 127, (32, 3, 3, 3)).astype(np.int8))
    each = n.const((n.rng.random(32) / 50).astype(np.float32))
    w = n.op("DequantizeLinear", w, each, n.const(np.zeros(32, np.int8)), axis=0)
    x = n.op("Conv", "x", w, n.weight(32), pads=[1, 1, 1, 1])
    x = n.op("DequantizeLinear", n.op("QuantizeLinear", x, scale, zero), scale, zero)
    return n.build(n.head(n.relu(n.conv(x, 32, 64)), 64))


def squeeze_and_excitation():
    n = Net("N", 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    for _ in range(2):
        y = n.conv(x, 64, 64)
        s = n.op("Squeeze", n.op("ReduceMean", y, axes=[2, 3]), n.ints(2, 3))
        s = n.op("Sigmoid", n.linear(n.relu(n.linear(s, 64, 16)), 16, 64))
        x = n.relu(n.op("Add", x, n.op("Mul", y, n.op("Unsqueeze", s, n.ints(2, 3)))))
    return n.build(n.head(x, 64))


def channel_attention():
    """One pair of layers scores what the mean and the maximum of each channel are worth."""
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    down, up = n.weight(16, 64, 1, 1), n.weight(64, 16, 1, 1)
    pools = (n.op(kind, x) for kind in ("GlobalAveragePool", "GlobalMaxPool"))
    a, b = (n.op("Conv", n.relu(n.op("Conv", p, down)), up) for p in pools)
    x = n.op("Mul", x, n.op("Sigmoid", n.op("Add", a, b)))
    return n.build(n.head(n.conv(x, 64, 64), 64))


def regnet():
    n = Net(1, 3, 8, 8)
    x, width = n.relu(n.conv("x", 3, 32)), 32
    for wide, strides in ((64, [2, 2]), (64, [1, 1])):
        y = n.relu(n.conv(x, width, wide, 1))
        y = n.relu(n.conv(y, wide, wide, group=wide // 8, strides=strides))
        s = n.relu(n.conv(n.op("GlobalAveragePool", y), wide, 16, 1))
        y = n.conv(n.op("Mul", y, n.op("Sigmoid", n.conv(s, 16, wide, 1))), wide, wide, 1)
        short = x if width == wide else n.conv(x, width, wide, 1, strides=strides)
        x, width = n.relu(n.op("Add", y, short)), wide
    return n.build(n.head(x, 64))


def inception():
    n = Net(1, 3, 8, 8)
    x, width = n.relu(n.conv("x", 3, 64)), 64
    for _ in range(2):
        branches = [n.conv(x, width, 24, 1), n.conv(n.relu(n.conv(x, width, 32, 1)), 32, 48)]
        branches.append(n.conv(n.relu(n.conv(n.relu(n.conv(x, width, 8, 1)), 8, 16)), 16, 24))
        pooled = n.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        branches.append(n.conv(pooled, width, 16, 1))
        x, width = n.relu(n.op("Concat", *branches, axis=1)), 112
    return n.build(n.head(x, width))


def hrnet():
    """Two resolutions that exchange what they have."""
    n = Net(1, 3, 16, 16)
    x = n.relu(n.conv("x", 3, 32))
    high, low = n.relu(n.conv(x, 32, 32)), n.relu(n.conv(x, 32, 64, strides=[2, 2]))
    scales = n.const(np.array([1, 1, 2, 2], np.float32))
    for _ in range(2):
        up = n.op("Resize", n.conv(low, 64, 32, 1), "", scales, mode="nearest")
        down = n.conv(high, 32, 64, strides=[2, 2])
        high = n.relu(n.op("Add", n.conv(high, 32, 32), up))
        low = n.relu(n.op("Add", n.conv(low, 64, 64), down))
    both = n.op("Concat", high, n.op("Resize", low, "", scales, mode="nearest"), axis=1)
    return n.build(n.conv(n.relu(n.conv(both, 96, 96, 1)), 96, 4, 1))


def preactivation():
    n = Net(1, 3, 8, 8)
    x = n.conv("x", 3, 48)
    for _ in range(3):
        y = n.conv(n.relu(n.norm(x, 48)), 48, 48)
        x = n.op("Add", x, n.conv(n.relu(n.norm(y, 48)), 48, 48))
    return n.build(n.head(n.relu(n.norm(x, 48)), 48))


def squeezenet():
    n = Net(1, 3, 8, 8)
    x, width = n.relu(n.conv("x", 3, 48)), 48
    for _ in range(2):
        s = n.relu(n.conv(x, width, 16, 1))
        x, width = (
            n.op("Concat", n.relu(n.conv(s, 16, 64, 1)), n.relu(n.conv(s, 16, 64)), axis=1),
            128,
        )
    x = n.op("GlobalAveragePool", n.conv(x, width, 10, 1))
    return n.build(n.op("Flatten", x))


def cross_stage_partial():
    """A Split by number of outputs: its sizes are written nowhere."""
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    a, b = n.op("Split", x, outputs=2, axis=1)
    for _ in range(2):
        b = n.op("Add", b, n.relu(n.conv(n.relu(n.conv(b, 32, 32, 1)), 32, 32)))
    x = n.op("Concat", a, n.conv(b, 32, 32, 1), axis=1)
    return n.build(n.head(n.relu(n.conv(x, 64, 128, 1)), 128))


def shufflenet_v2():
    n = Net("N", 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    for _ in range(2):
        a, b = n.op("Split", x, n.ints(32, 32), outputs=2, axis=1)
        b = n.relu(n.conv(b, 32, 32, 1))
        b = n.relu(n.conv(n.conv(b, 32, 32, group=32), 32, 32, 1))
        x = n.op("Concat", a, b, axis=1)
        batch = n.op("Gather", n.op("Shape", x), n.ints(0), axis=0)
        apart = n.op("Concat", batch, n.ints(2, 32, 8, 8), axis=0)
        x = n.op("Transpose", n.op("Reshape", x, apart), perm=[0, 2, 1, 3, 4])
        x = n.op("Reshape", x, n.op("Concat", batch, n.ints(-1, 8, 8), axis=0))
    return n.build(n.head(n.relu(n.conv(x, 64, 128, 1)), 128))


def ghost():
    """Half of the channels are made of the others by depthwise kernels."""
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 32))
    for _ in range(2):
        first = n.relu(n.conv(x, 32, 32, 1))
        both = n.op("Concat", first, n.relu(n.conv(first, 32, 32, group=32)), axis=1)
        x = n.op("Add", x, n.conv(both, 64, 32, 1))
    return n.build(n.head(x, 32))


def convnext():
    n = Net("N", 3, 8, 8)
    x = n.conv("x", 3, 32)
    for _ in range(2):
        y = n.op("Transpose", n.conv(x, 32, 32, 7, group=32), perm=[0, 2, 3, 1])
        y = n.linear(n.layer_norm(y, 32), 32, 128)
        y = n.op("Mul", y, n.op("Sigmoid", y))
        y = n.op("Mul", n.linear(y, 128, 32), n.weight(32))
        x = n.op("Add", x, n.op("Transpose", y, perm=[0, 3, 1, 2]))
    return n.build(n.head(x, 32))


def spatial_pyramid():
    """Branches with holes, and one of the whole picture that is spread out again."""
    n = Net(1, 3, 8, 8)
    x = n.relu(n.conv("x", 3, 64))
    whole = n.relu(n.conv(n.op("GlobalAveragePool", x), 64, 32, 1))
    whole = n.op("Resize", whole, "", "", n.ints(1, 32, 8, 8), mode="nearest")
    w = n.weight(32, 64, 3, 3)
    holes = n.relu(n.op("Conv", x, w, pads=[2] * 4, dilations=[2, 2]))
    x = n.op("Concat", n.relu(n.conv(x, 64, 32, 1)), holes, whole, axis=1)
    return n.build(n.conv(n.relu(n.conv(x, 96, 64, 1)), 64, 5, 1))


def quantized_residual():
    """Both weights and activations between QuantizeLinear and DequantizeLinear, as for training."""
    n = Net(1, 3, 8, 8)
    step, zero = n.const(np.float32(0.02)), n.const(np.int8(0))

    def coded(x):
        return n.op("DequantizeLinear", n.op("QuantizeLinear", x, step, zero), step, zero)

    def conv(x, a, b):
        w = n.const(n.rng.integers(-127, 127, (b, a, 3, 3)).astype(np.int8))
        each = n.const((n.rng.random(b) / 500 + 1e-4).astype(np.float32))
        w = n.op("DequantizeLinear", w, each, n.const(np.zeros(b, np.int8)), axis=0)
        return n.op("Conv", coded(x), w, n.weight(b), pads=[1] * 4)

    x = n.relu(conv("x", 3, 48))
    for _ in range(2):
        x = n.relu(n.op("Add", coded(conv(n.relu(conv(x, 48, 48)), 48, 48)), coded(x)))
    return n.build(n.head(x, 48))


FURTHER = {
    padded_shortcut: 0.27,
    unet: 0.27,
    channels_last: 0.28,
    quantized: 0.28,
    squeeze_and_excitation: 0.26,
    channel_attention: 0.27,
    regnet: 0.16,
    inception: 0.27,
    hrnet: 0.26,
    preactivation: 0.26,
    squeezenet: 0.28,
    cross_stage_partial: 0.28,
    shufflenet_v2: 0.32,
    ghost: 0.32,
    convnext: 0.62,
    spatial_pyramid: 0.27,
    quantized_residual: 0.26,
}
"""Networks, and the share of parameters that half of each group may leave."""

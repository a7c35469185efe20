"""Transformers and recurrent networks beyond those of the survey, with random weights."""

import numpy as np
from prune.net import Net
from prune.topologies import lstm, vit


def vit_dynamic():
    return vit(dynamic=True)


def bidirectional_gru():
    return lstm("GRU", 2)


def bidirectional_lstm():
    return lstm("LSTM", 2)


def rotary():
    n = Net(1, 6, 32)
    cos, sin = (
        n.const(f(np.arange(48).reshape(6, 8)).astype(np.float32)) for f in (np.cos, np.sin)
    )

    def heads(x):
        return n.op("Transpose", n.reshape(x, 1, 6, 4, 8), perm=[0, 2, 1, 3])

    def turn(x):
        a = n.op("Slice", x, n.ints(0), n.ints(4), n.ints(3))
        b = n.op("Slice", x, n.ints(4), n.ints(2**62), n.ints(3))
        turned = n.op("Concat", n.op("Neg", b), a, axis=-1)
        return n.op("Add", n.op("Mul", x, cos), n.op("Mul", turned, sin))

    q, k, v = (heads(n.op("MatMul", "x", n.weight(32, 32))) for _ in range(3))
    s = n.op("MatMul", turn(q), n.op("Transpose", turn(k), perm=[0, 1, 3, 2]))
    o = n.op("Transpose", n.op("MatMul", n.op("Softmax", s), v), perm=[0, 2, 1, 3])
    return n.build(n.op("MatMul", n.reshape(o, 1, 6, 32), n.weight(32, 32)))


def attention(n, q, k, v, width):
    """Softmax attention of heads x length x width."""
    s = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2]))
    s = n.op("Softmax", n.op("Mul", s, n.const(np.float32(width**-0.5))), axis=-1)
    return n.op("Transpose", n.op("MatMul", s, v), perm=[0, 2, 1, 3])


def lengths(n, x, *which):
    shape = n.op("Shape", x)
    return [n.op("Gather", shape, n.ints(i), axis=0) for i in which]


def open_mask():
    """Batch and length open; the mask fills a shape that is computed; heads joined by -1."""
    n = Net("N", "T", 64)
    x = n.linear("x", 64, 64)
    batch, steps = lengths(n, "x", 0, 1)
    wanted = n.op("Concat", batch, n.ints(1), steps, steps, axis=0)
    whole = n.op("Equal", wanted, n.ints(-1, -1, -1, -1))
    wanted = n.op("Where", whole, n.ints(1, 1, 1, 1), wanted)
    mask = n.op("Expand", n.weight(1, 1, 1, 1), wanted)
    for _ in range(2):
        q, k, v = (
            n.op("Transpose", n.reshape(n.linear(x, 64, 64), 0, 0, 4, 16), perm=[0, 2, 1, 3])
            for _ in range(3)
        )
        s = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2]))
        s = n.op("Softmax", n.op("Add", s, mask), axis=-1)
        o = n.op("Transpose", n.op("MatMul", s, v), perm=[0, 2, 1, 3])
        o = n.op("Reshape", o, n.op("Concat", batch, steps, n.ints(-1), axis=0))
        x = n.op("Add", x, n.linear(o, 64, 64))
    return n.build(n.linear(x, 64, 10))


def open_positions():
    """Two layers whose heads only a run shows: one computed shape serves both, with a -1 in it."""
    n = Net("N", "T", 64)
    batch, steps = lengths(n, "x", 0, 1)
    places = n.op("Slice", n.ints(*range(600)), n.ints(0), steps, n.ints(0))
    x = n.op("Add", n.linear("x", 64, 64), n.op("Gather", n.weight(600, 64), places, axis=0))
    apart = n.op("Concat", batch, steps, n.ints(-1, 16), axis=0)
    joined = n.op("Concat", batch, steps, n.ints(64), axis=0)
    for _ in range(2):
        q, k, v = (
            n.op("Transpose", n.op("Reshape", n.linear(x, 64, 64), apart), perm=[0, 2, 1, 3])
            for _ in range(3)
        )
        o = n.op("Reshape", attention(n, q, k, v, 16), joined)
        x = n.op("Add", x, n.linear(o, 64, 64))
    return n.build(n.linear(x, 64, 10))


def packed_attention():
    """torch.nn.MultiheadAttention: length first, heads beside the batch, one packed projection."""
    n = Net("T", "N", 64)
    x = n.linear("x", 64, 64)
    steps, batch = lengths(n, "x", 0, 1)
    for _ in range(2):
        packed = n.linear(x, 64, 192)
        apart = n.op("Concat", steps, batch, n.ints(3, 64), axis=0)
        packed = n.op("Unsqueeze", n.op("Reshape", packed, apart), n.ints(0))
        packed = n.op("Transpose", packed, perm=[3, 1, 2, 0, 4])
        packed = n.op("Squeeze", packed, n.ints(3))
        q, k, v = (n.op("Gather", packed, n.const(np.int64(i)), axis=0) for i in range(3))
        beside = n.op("Mul", batch, n.ints(4))
        split = n.op("Concat", steps, beside, n.ints(16), axis=0)
        q, k, v = (n.op("Transpose", n.op("Reshape", t, split), perm=[1, 0, 2]) for t in (q, k, v))
        s = n.op("Softmax", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
        o = n.op("Transpose", n.op("MatMul", s, v), perm=[1, 0, 2])
        rows = n.op("Concat", n.op("Mul", steps, batch), n.ints(64), axis=0)
        o = n.op("Gemm", n.op("Reshape", o, rows), n.weight(64, 64), n.weight(64), transB=1)
        x = n.op("Add", x, n.op("Reshape", o, n.op("Concat", steps, batch, n.ints(64), axis=0)))
    return n.build(n.linear(x, 64, 10))


def decoder():
    """RMSNorm in parts, rotary embedding by Split, grouped queries, a gated unit by Split."""
    n = Net("N", "T", 64)
    x = n.linear("x", 64, 64)
    batch, steps = lengths(n, "x", 0, 1)
    angle = n.op(
        "Mul", n.op("Cast", n.op("Range", *ends(n, steps)), to=1), n.const(np.float32(0.1))
    )
    angle = n.op("MatMul", n.op("Unsqueeze", angle, n.ints(1)), n.weight(1, 8))
    angle = n.op("Concat", angle, angle, axis=-1)

    def norm(x):
        mean = n.op("ReduceMean", n.op("Mul", x, x), axes=[-1])
        root = n.op("Sqrt", n.op("Add", mean, n.const(np.float32(1e-5))))
        return n.op("Mul", n.op("Div", x, root), n.weight(64))

    def heads(x, count):
        y = n.reshape(n.op("MatMul", x, n.weight(64, count * 16)), 0, 0, count, 16)
        return n.op("Transpose", y, perm=[0, 2, 1, 3])

    def turn(x):
        a, b = n.op("Split", x, n.ints(8, 8), outputs=2, axis=-1)
        turned = n.op("Concat", n.op("Neg", b), a, axis=-1)
        return n.op(
            "Add", n.op("Mul", x, n.op("Cos", angle)), n.op("Mul", turned, n.op("Sin", angle))
        )

    def repeat(x):
        x = n.op("Unsqueeze", x, n.ints(2))
        x = n.op("Expand", x, n.op("Concat", batch, n.ints(2, 2), steps, n.ints(16), axis=0))
        return n.op("Reshape", x, n.op("Concat", batch, n.ints(4), steps, n.ints(16), axis=0))

    for _ in range(2):
        y = norm(x)
        q, k, v = turn(heads(y, 4)), repeat(turn(heads(y, 2))), repeat(heads(y, 2))
        o = n.reshape(attention(n, q, k, v, 16), 0, 0, 64)
        x = n.op("Add", x, n.op("MatMul", o, n.weight(64, 64)))
        a, b = n.op("Split", n.op("MatMul", norm(x), n.weight(64, 256)), outputs=2, axis=-1)
        y = n.op("Mul", n.op("Mul", a, n.op("Sigmoid", a)), b)
        x = n.op("Add", x, n.op("MatMul", y, n.weight(128, 64)))
    return n.build(n.linear(norm(x), 64, 10))


def ends(n, stop):
    """Start, stop and step of a Range, as scalars."""
    return n.const(np.int64(0)), n.op("Squeeze", stop, n.ints(0)), n.const(np.int64(1))


def conformer():
    """Its convolution: pointwise, a gate by Split, depthwise over time, Swish, pointwise."""
    n = Net("N", "T", 48)
    x = n.linear("x", 48, 48)
    for _ in range(2):
        y = n.op("Transpose", n.layer_norm(x, 48), perm=[0, 2, 1])
        y = n.op("Conv", y, n.weight(96, 48, 1), n.weight(96))
        a, b = n.op("Split", y, n.ints(48, 48), outputs=2, axis=1)
        y = n.op("Mul", a, n.op("Sigmoid", b))
        y = n.norm(n.op("Conv", y, n.weight(48, 1, 7), group=48, pads=[3, 3]), 48)
        y = n.op("Conv", n.op("Mul", y, n.op("Sigmoid", y)), n.weight(48, 48, 1), n.weight(48))
        x = n.op("Add", x, n.op("Transpose", y, perm=[0, 2, 1]))
    return n.build(n.linear(x, 48, 10))


def crnn():
    """Columns of a picture read by two bidirectional LSTMs."""
    n = Net("N", 3, 8, 32)
    x = n.relu(n.conv("x", 3, 32))
    x = n.op("MaxPool", x, kernel_shape=[8, 1], strides=[8, 1])
    x, width = n.op("Transpose", n.op("Squeeze", x, n.ints(2)), perm=[2, 0, 1]), 32
    for _ in range(2):
        w, r, b = n.weight(2, 128, width), n.weight(2, 128, 32), n.weight(2, 256)
        y, _ = n.op("LSTM", x, w, r, b, outputs=2, hidden_size=32, direction="bidirectional")
        x, width = n.reshape(n.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, 64), 64
    return n.build(n.op("Softmax", n.linear(x, 64, 20), axis=-1))


def last_states():
    """The last states of both directions of a GRU, one behind the other."""
    n = Net("T", "N", 24)
    w, r, b = n.weight(2, 144, 24), n.weight(2, 144, 48), n.weight(2, 288)
    _, h = n.op("GRU", "x", w, r, b, outputs=2, hidden_size=48, direction="bidirectional")
    a, b = (n.op("Gather", h, n.const(np.int64(i)), axis=0) for i in range(2))
    x = n.relu(n.linear(n.op("Concat", a, b, axis=1), 96, 96))
    return n.build(n.linear(x, 96, 5))


def tied_embedding():
    """The rows of the embedding are also the columns of the last layer."""
    n = Net("N", 6)
    table = n.weight(50, 64)
    x = n.op("Gather", table, n.op("Cast", n.op("Clip", "x", n.const(np.float32(0))), to=7), axis=0)
    for _ in range(2):
        x = n.op("Add", x, n.linear(n.relu(n.linear(x, 64, 128)), 128, 64))
    return n.build(n.op("MatMul", x, n.op("Transpose", table, perm=[1, 0])))


def windows():
    """Attention within the windows of a rolled picture, by Slice and Concat."""
    n = Net(1, 8, 8, 32)
    x = n.linear("x", 32, 32)

    def roll(x, by):
        for axis in (1, 2):
            a = n.op("Slice", x, n.ints(by), n.ints(2**62), n.ints(axis))
            x = n.op("Concat", a, n.op("Slice", x, n.ints(0), n.ints(by), n.ints(axis)), axis=axis)
        return x

    y = n.reshape(roll(x, 2), 1, 2, 4, 2, 4, 32)
    y = n.reshape(n.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), 4, 16, 32)
    y = n.op("Transpose", n.reshape(n.linear(y, 32, 96), 4, 16, 3, 4, 8), perm=[2, 0, 3, 1, 4])
    q, k, v = (n.op("Gather", y, n.const(np.int64(i)), axis=0) for i in range(3))
    s = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 1, 3, 2]))
    s = n.op("Add", s, n.weight(1, 4, 16, 16))
    y = n.op("Transpose", n.op("MatMul", n.op("Softmax", s, axis=-1), v), perm=[0, 2, 1, 3])
    y = n.reshape(n.linear(n.reshape(y, 4, 16, 32), 32, 32), 1, 2, 2, 4, 4, 32)
    y = n.reshape(n.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), 1, 8, 8, 32)
    x = n.op("Add", x, roll(y, 6))
    x = n.op("Add", x, n.linear(n.relu(n.linear(x, 32, 64)), 64, 32))
    return n.build(n.linear(x, 32, 10))


def attention_pooling():
    """A learned query reads all tokens."""
    n = Net("N", 9, 64)
    x = n.linear("x", 64, 64)
    q = n.op("Transpose", n.reshape(n.weight(1, 64), 1, 1, 4, 16), perm=[0, 2, 1, 3])
    k, v = (
        n.op("Transpose", n.reshape(n.linear(x, 64, 64), 0, 9, 4, 16), perm=[0, 2, 1, 3])
        for _ in range(2)
    )
    x = n.linear(n.reshape(attention(n, q, k, v, 16), 0, 64), 64, 64)
    return n.build(n.linear(n.relu(x), 64, 10))


def einsum_attention():
    n = Net("N", 9, 48)
    x = n.linear("x", 48, 48)
    q, k, v = (n.op("Einsum", x, n.weight(48, 4, 12), equation="bsd,dhk->bshk") for _ in range(3))
    s = n.op("Softmax", n.op("Einsum", q, k, equation="bqhk,bthk->bhqt"), axis=-1)
    o = n.op("Einsum", s, v, equation="bhqt,bthk->bqhk")
    x = n.op("Add", x, n.op("Einsum", o, n.weight(4, 12, 48), equation="bqhk,hkd->bqd"))
    return n.build(n.linear(x, 48, 10))


FURTHER = {
    vit_dynamic: 0.42,
    bidirectional_gru: 0.29,
    bidirectional_lstm: 0.29,
    rotary: 0.27,
    open_mask: 0.18,
    open_positions: 0.4,
    packed_attention: 0.18,
    decoder: 0.46,
    conformer: 0.59,
    crnn: 0.27,
    last_states: 0.32,
    tied_embedding: 0.28,
    windows: 0.27,
    attention_pooling: 0.24,
    einsum_attention: 0.22,
}
"""Networks, and the share of parameters that half of each group may leave."""

"""Channels of zeros: bit for bit the same, and only where the direct kernel is won."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from integers import HEAD, deployed_ops

from onnxopt import shapes
from onnxopt.runtime import Session, Settings
from onnxopt_passes.quant import fours, placing

IMAGE = (
    HEAD
    + """g (float[1,3,12,12] x) => (float[1,16,12,12] y)
<float[16,3,3,3] w, float[16] b, float[16,16,1,1] v> {
   c = Conv<pads=[1,1,1,1]>(x, w, b)
   r = Relu(c)
   y = Conv(r, v)
}"""
)


def _held(exported):
    return {t.name: onnx.numpy_helper.to_array(t) for t in exported.whole().graph.initializer}


def _run(exported, ctx):
    """Return outputs for images whose integers are 128 at most: so no CPU saturates sums of two."""
    session = Session(exported, Settings(True))
    return [session.run({"x": -np.abs(f["x"])})["y"] for f in ctx.calibration.feeds()]


def test_an_image_is_read_as_four_channels_and_nothing_changes(
    quantized, model, context, monkeypatch
):
    ctx = context((1, 3, 12, 12), max_drop=1.0)
    _, wide, _ = quantized(model(IMAGE), ctx, recover="none")
    assert _held(wide)["c.weight"].shape == (16, 4, 3, 3)
    assert not _held(wide)["c.weight"][:, 3].any()
    assert 100 < _held(wide)["x.wide.zero"] < 156, "zeros are the zero point"
    assert deployed_ops(wide)["QLinearConv"] == 2, "onnxruntime still fuses the Conv"
    monkeypatch.setattr(placing.fours, "missing", lambda tensor: 0)
    _, plain, _ = quantized(model(IMAGE), ctx, recover="none")
    assert _held(plain)["c.weight"].shape == (16, 3, 3, 3)
    for one, other in zip(_run(wide, ctx), _run(plain, ctx), strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_convolutions_of_an_image_share_the_zeros(quantized, model, context):
    text = IMAGE.replace("float[16,16,1,1] v", "float[16,3,1,1] v").replace(
        "y = Conv(r, v)", "d = Conv(x, v)\n   y = Add(r, d)"
    )
    _, after, _ = quantized(model(text), context((1, 3, 12, 12), max_drop=1.0))
    assert deployed_ops(after)["Pad"] == 1
    assert [_held(after)[f"{n}.weight"].shape[1] for n in "cd"] == [4, 4]


READ = (
    HEAD
    + """g (float[1,C,12,12] x) => (float y, float z)
<float[M,C,3,3] w, float[4,C,1,1] few> {
   n = Transpose<perm=[0,1,3,2]>(x)
   s = Add(x, x)
   c = Conv(IN, w)
   z = Conv(OTHER, few)
   y = Sigmoid(c)
}"""
)


@pytest.mark.parametrize(
    ("source", "other", "outputs", "channels", "missing"),
    [
        ("x", "s", 16, 3, 1),
        ("x", "s", 16, 1, 3),
        ("n", "s", 16, 3, 1),  # behind ops that only move what is fed
        ("s", "x", 16, 3, 0),  # made by a unit
        ("x", "x", 16, 3, 0),  # another reader has no such kernel
        ("x", "s", 8, 3, 0),
        ("x", "s", 20, 3, 0),
        ("x", "s", 16, 4, 0),
    ],
)
def test_only_what_wins_the_kernel_gets_zeros(model, source, other, outputs, channels, missing):
    words = {"IN": source, "OTHER": other, "[M,C": f"[{outputs},{channels}", ",C,": f",{channels},"}
    text = READ
    for old, new in words.items():
        text = text.replace(old, new)
    built = model(text)
    shapes.infer(built)
    (conv,) = (n for n in built.graph.nodes if n.outputs[0].name == "c")
    assert fours.missing(conv.inputs[0]) == missing

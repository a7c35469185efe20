"""HardSigmoid and HardSwish in integers."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from integers import HEAD, deployed_ops, noise, ops

from onnxopt.runtime import Session
from onnxopt_passes.quant import gating, scheme
from onnxopt_passes.quant.scheme import GRIDS

GATES = {
    "HardSwish": ("m = HardSwish(c)", 3, {"QLinearAdd": 1, "QLinearMul": 1}),
    "x HardSigmoid(x)": (
        "h = HardSigmoid<alpha=0.16666667, beta=0.5>(c)\nm = Mul(c, h)",
        4,
        {"QLinearAdd": 1, "QLinearMul": 1},
    ),
    "HardSigmoid": ("m = HardSigmoid(c)", 3, {"QLinearAdd": 1}),
    "negative shift": ("m = HardSigmoid<alpha=0.5, beta=-0.25>(c)", 3, {"QLinearAdd": 1}),
}


def _gated(lines):
    return (
        HEAD
        + f"""g (float[1,8,12,12] x) => (float[1,8,12,12] y)
<float[8,8,3,3] w1, float[8,8,1,1] w2> {{
    c = Conv<pads=[1,1,1,1]>(x, w1)
    {lines}
    y = Conv(m, w2)
}}"""
    )


@pytest.mark.parametrize(("lines", "count", "gate"), GATES.values(), ids=GATES)
def test_hard_gates_are_sums_that_saturate(quantized, model, context, lines, count, gate):
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, edits = quantized(model(_gated(lines)), ctx)
    assert edits == count
    assert not {"HardSigmoid", "HardSwish"} & set(ops(after))
    assert noise(before, after, next(iter(ctx.calibration)).feed) < 0.05
    counts = deployed_ops(after)
    assert {op: n for op, n in counts.items() if op in ("QLinearAdd", "QLinearMul")} == gate
    assert counts["QLinearConv"] == 2
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1


@pytest.mark.parametrize("grid", ["uint8", "int8"])
def test_the_ends_of_a_gate_are_the_ends_of_its_grid(grid):
    node = gs.Node("HardSigmoid", attrs={"alpha": 0.5, "beta": -0.25})
    summed, read = gating.schemes(node, GRIDS[grid])
    x = np.array([-9.0, 0.5, 1.0, 2.5, 9.0], np.float32)
    held, steps = gating.shift(node, GRIDS[grid])
    integers = scheme.quantize(x + scheme.dequantize(held, steps), summed)
    assert integers[[0, -1]].tolist() == [GRIDS[grid].lowest, GRIDS[grid].highest]
    wanted = np.clip(0.5 * x - 0.25, 0, 1)
    assert scheme.dequantize(integers, read) == pytest.approx(wanted, abs=0.5 / 255 + 1e-6)


def test_a_gate_that_falls_stays_in_float(quantized, model, context):
    text = _gated("m = HardSigmoid<alpha=-0.2, beta=0.5>(c)")
    _, after, edits = quantized(model(text), context((1, 8, 12, 12), max_drop=1.0))
    assert edits == 2
    assert ops(after)["HardSigmoid"] == 1


def test_a_gate_is_as_exact_as_its_integers(quantized, model, context):
    text = (
        HEAD
        + """g (float[1,8,12,12] x) => (float[1,8,12,12] y) <float[8,8,1,1] w> {
    c = Conv(x, w)
    y = HardSigmoid<alpha=0.16666667, beta=0.5>(c)
}"""
    )
    ctx = context((1, 8, 12, 12), max_drop=1.0)
    before, after, _ = quantized(model(text), ctx, method="minmax", recover="none")
    feed = next(iter(ctx.calibration)).feed
    want, got = (Session(m).run(feed)["y"] for m in (before, after))
    held = Session(before).run(feed)["y"]
    assert got.min() >= 0
    assert got.max() == pytest.approx(1.0)
    steps = 2 / 255 + np.ptp(held) / 12
    assert np.abs(want - got).max() < steps

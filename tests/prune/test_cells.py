"""Recurrent cells as readers: what they do not need goes, and they make up for what they lose."""

import numpy as np
import pytest
from prune.net import Net

from onnxopt.base import Context
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings
from onnxopt.samples import synthetic
from onnxopt_passes.prune import cells
from onnxopt_passes.prune.prune import Prune

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(n, x, kind, inputs, hidden, directions=1, unread=(), idle=()):
    """Return a cell that does not read some of its inputs, nor some of its own states."""
    w, r = (
        n.rng.normal(size=(directions, GATES[kind] * hidden, k)).astype(np.float32) / 3
        for k in (inputs, hidden)
    )
    w[:, :, list(unread)] = 0
    r[:, :, list(idle)] = 0
    b = n.weight(directions, 2 * GATES[kind] * hidden)
    direction = "bidirectional" if directions == 2 else "forward"
    held = (n.const(w), n.const(r), b)
    y, _ = n.op(kind, x, *held, outputs=2, hidden_size=hidden, direction=direction)
    return y


def run(n, y, **options):
    proto = n.build(y)
    model = Model.from_proto(proto)
    samples = synthetic(model.export().inputs, n=60)
    ctx = Context(calibration=samples)
    edits = Prune(align="none", **options).run(model, ctx)
    feed = next(synthetic(model.export().inputs, seed=7, n=1).feeds())
    before, after = (
        Session(m.export(), Settings()).run(feed) for m in (Model.from_proto(proto), model)
    )
    name = next(iter(before))
    error = np.abs(before[name] - after[name]).max() / np.abs(before[name]).max()
    return edits, ctx, float(error)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_cell_makes_up_for_inputs_that_others_tell(kind, directions):
    n = Net(5, 2, 6)
    own = n.rng.normal(size=(6, 4))
    told = own @ n.rng.normal(size=(4, 4)) / 2
    weight = n.const(np.concatenate([own, told], axis=1).astype(np.float32))
    x = n.op("Add", n.op("MatMul", "x", weight), n.weight(8))
    edits, ctx, error = run(n, cell(n, x, kind, 8, 5, directions), ratio=0.5, include=("w0#2",))
    assert edits == 1, ctx.untouched
    assert error < 0.02  # above 0.9 where it only loses its columns


def test_states_that_nothing_reads_go():
    n, gone = Net(5, 2, 6), (0, 3, 5, 6)
    y = n.op("Squeeze", cell(n, "x", "LSTM", 6, 8, idle=gone), n.ints(1))
    y = cell(n, y, "LSTM", 8, 5, unread=gone)
    edits, ctx, error = run(n, y, ratio=0.5, include=("w1",))
    assert edits == 1, ctx.untouched
    assert error < 1e-5


def test_a_cell_that_reads_what_is_not_finite_says_nothing():
    n = Net(5, 2, 6)
    x = n.op("Log", n.op("Sub", "x", n.const(np.float32(100))))  # of negative numbers
    model = Model.from_proto(n.build(cell(n, x, "LSTM", 6, 5)))
    feeds = synthetic(model.export().inputs, n=4).feeds()
    assert "w2" not in cells.collect(model, feeds, Settings(True))

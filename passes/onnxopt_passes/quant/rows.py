"""How many rows a MatMul multiplies at a time: that decides which form of its weight is fastest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxopt import shapes
from onnxopt.errors import SamplesError
from onnxopt.runtime import CannotRun
from onnxopt.statistics import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

FEW = {8: 2, 4: 8}
"""Bits -> the most rows that MatMulNBits multiplies faster than a float kernel: measured with
onnxruntime 1.32 on x64 with VNNI, one thread, 384 to 1536 columns; 2 bits: never by much."""


def count(model: Model, nodes: Sequence[gs.Node], ctx: Context) -> dict[int, int]:
    """Return how many rows the first inputs of nodes have, by the nodes' ids.

    Read from shapes that are static, else from the first calibration sample for nodes of the main
    graph; a node of which neither is known is not in it. `shapes.infer` must have been called.
    """
    found: dict[int, int] = {}
    open_: list[gs.Node] = []
    main = {id(n) for n in model.graph.nodes}
    for node in nodes:
        dims = shapes.static(node.inputs[0])
        if dims is not None:
            found[id(node)] = math.prod(dims[:-1])
        elif id(node) in main:
            open_.append(node)
    if not open_ or ctx.calibration is None or ctx.calibration.synthetic:
        return found
    try:
        tap = Tap(model, [n.inputs[0] for n in open_])
        values = tap(next(iter(ctx.calibration)).feed)
    except (CannotRun, SamplesError, StopIteration):
        return found
    pairs = zip(open_, values, strict=True)
    return found | {id(n): math.prod(v.shape[:-1]) for n, v in pairs}

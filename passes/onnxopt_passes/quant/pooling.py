"""Means over all of an image, written as the pool that onnxruntime has an integer kernel for.

    ReduceMean(x, axes=[2, 3], keepdims=1)  =  GlobalAveragePool(x)
    ReduceMean(x, axes=[2, 3], keepdims=0)  =  Flatten(GlobalAveragePool(x))

As PyTorch exports `x.mean((2, 3))`: at the end of a network, and in each squeeze-and-excitation
block, where a mean in float would have the whole tensor dequantized. Both take the sum and divide
once. Of tensors of float32 with four axes; others have no such kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt import match, rewrite, shapes

if TYPE_CHECKING:
    from onnxopt.model import Model

SPATIAL = {2, 3}
"""Axes of an image, channels first."""


def write(model: Model) -> int:
    """Write means of the main graph as pools, in place; return how many.

    Args:
        model: Shapes inferred; they are afterwards, too.
    """
    graph = model.graph
    found = [node for node in graph.nodes if _is_mean(node)]
    if not found:
        return 0
    with rewrite.editing(model):
        for node in found:
            out, kept = node.outputs[0], match.attribute(node, "keepdims", 1)
            node.op, node.inputs = "GlobalAveragePool", [node.inputs[0]]
            node.attrs.clear()
            if not kept:
                pooled = gs.Variable(f"{out.name}.pooled", np.float32)
                node.outputs = [pooled]
                flat = gs.Node("Flatten", pooled.name, {"axis": 1}, [pooled], [out])
                match.insert(graph, flat)
    shapes.infer(model)
    return len(found)


def _is_mean(node: gs.Node) -> bool:
    """Whether a node is the mean over all of each channel of an image."""
    if not match.is_op(node, "ReduceMean"):
        return False
    source, axes = node.inputs[0], match.integers(node, 1, "axes")
    dims = shapes.dims(source)
    if dims is None or len(dims) != 4 or shapes.dtype(source) != np.float32 or axes is None:
        return False
    if match.constant(source) is not None or match.attribute(node, "keepdims", 1) not in (0, 1):
        return False
    return len(axes) == len(SPATIAL) and {a % 4 for a in axes if -4 <= a < 4} == SPATIAL

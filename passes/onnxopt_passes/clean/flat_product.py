"""Products of a matrix that are taken of rows laid flat, and stacked again behind it.

Reshape(MatMul(Reshape(x, [.., k]), W), [*x's other axes, n])  ->  MatMul(x, W)

W is a matrix of shape (k, n), and k the last size of x: MatMul takes each row of x by itself,
wherever it stands. TF writes a Dense layer on sequences this way (`Tensordot`). A bias that is
added next stands right behind the product then, where runtimes add it in passing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shape_values, shapes
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import axes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def stack_product(graph: gs.Graph, node: gs.Node) -> bool:
    """Let a MatMul take rows as they are stacked."""
    product = match.sole(graph, node.inputs[0], "MatMul")
    flat = None if product is None else match.sole(graph, product.inputs[0], "Reshape")
    if product is None or flat is None or not match.given(node, 1):
        return False
    source, weight = flat.inputs[0], match.constant(product.inputs[1])
    if weight is None or weight.ndim != 2 or axes.size(source, -1) != len(weight):
        return False
    if not _stacked(node, source, weight.shape[1]):
        return False

    out = node.outputs[0]
    match.remove(node)
    product.inputs = [source, product.inputs[1]]
    product.outputs = [out]
    return True


def _stacked(node: gs.Node, source: gs.Tensor, columns: int) -> bool:
    """Whether a Reshape gives the axes of `source`, but the last, and columns.

    One axis may be left to follow from the others. Behind the first, sizes that are known only when
    the model runs might be 0, which would copy an axis.
    """
    wanted, rank = shape_values.elements(node.inputs[1]), axes.rank(source)
    if wanted is None or rank != len(wanted) or not shape_values.whole(wanted[1:]):
        return False
    expected = [*(shapes.axis(source, i) for i in range(rank - 1)), columns]
    open_ = [e for e, x in zip(wanted, expected, strict=True) if e != x]
    return open_ in ([], [-1])


RULES: tuple[Rule, ...] = (Rule("stack_product", ("Reshape",), stack_product),)
"""The rule."""

"""Einsum of two operands  ->  MatMul, with Transposes where labels are in another order.

bhid,bhjd->bhij     MatMul(q, Transpose(k))         bij,jk->bik     MatMul(x, w)
bhij,bhjd->bhid     MatMul(p, v)                    ij,kj->ik       MatMul(x, Transpose(w))

A label is a batch where both operands and the result have it, summed where both operands and not
the result have it, a row or a column where one operand and the result have it. It takes one summed
label, one column, and one row; several rows if there is no batch. Either operand may be the left
one; that with fewer Transposes is. Constants are transposed here and now.

MatMul has faster kernels, and is known to fusions. Summed labels must have one known size or
symbol: Einsum would spread a size of 1. No label twice in an operand, no ellipsis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import scalars

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


MOST_TURNS = 2
"""Transposes; with three of them Einsum, which does without some, is faster."""


@dataclass(frozen=True)
class Product:
    """A MatMul that computes an Einsum.

    Attributes:
        left: Permutation of the left operand.
        right: Permutation of the right operand.
        out: Permutation of the product.
        swapped: Whether the Einsum's second operand is the left one.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    swapped: bool

    @property
    def turns(self) -> int:
        """How many Transposes it takes."""
        return sum(p != tuple(range(len(p))) for p in (self.left, self.right, self.out))


def fuse_einsum(graph: gs.Graph, node: gs.Node) -> bool:
    """Write an Einsum that is a product of matrices as one."""
    terms = _terms(node)
    if terms is None:
        return False
    one, other, result = terms
    a, b = node.inputs
    if scalars.kind(a, b, node.outputs[0]) not in scalars.FLOATS:
        return False
    options = [_product(one, other, result, False), _product(other, one, result, True)]
    products = [p for p in options if p is not None and p.turns <= MOST_TURNS]
    if not products:
        return match.miss("it is no product of matrices without a Reshape")
    if not _same_sizes(one, other, result, a, b):
        return match.miss("the sizes of what it sums over are not known to be equal")
    if match.quantized(a, node.outputs[0]) or match.quantized(b, node.outputs[0]):
        return match.miss("it stands between a DequantizeLinear and a QuantizeLinear")

    _write(graph, node, min(products, key=lambda p: p.turns))
    return True


def _terms(node: gs.Node) -> tuple[str, str, str] | None:
    """Return the labels of both operands and of the result."""
    equation = match.attribute(node, "equation", "")
    if not isinstance(equation, str) or len(node.inputs) != 2:
        return None
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    operands = inputs.split(",")
    if not arrow or len(operands) != 2:
        return None
    terms = (*operands, result)
    if not all(t.isalpha() and len(set(t)) == len(t) for t in terms):
        return None
    return terms[0], terms[1], terms[2]


def _product(left: str, right: str, result: str, swapped: bool) -> Product | None:
    """Return the MatMul of two operands in this order, None if it takes more than that."""
    batch = [c for c in left if c in right and c in result]
    batch.sort(key=result.index)
    summed = [c for c in left if c in right and c not in result]
    rows = sorted((c for c in left if c not in right and c in result), key=result.index)
    columns = [c for c in right if c not in left and c in result]
    if len(summed) != 1 or len(columns) != 1 or not rows or (batch and len(rows) > 1):
        return None
    if set(left + right) != {*batch, *summed, *rows, *columns}:
        return None
    made = [*batch, *rows, *columns]
    return Product(
        tuple(left.index(c) for c in [*batch, *rows, *summed]),
        tuple(right.index(c) for c in [*batch, *summed, *columns]),
        tuple(made.index(c) for c in result),
        swapped,
    )


def _same_sizes(one: str, other: str, result: str, a: gs.Tensor, b: gs.Tensor) -> bool:
    """Whether labels that are summed have one size in both operands."""
    left, right = shapes.dims(a), shapes.dims(b)
    if left is None or right is None or (len(left), len(right)) != (len(one), len(other)):
        return False
    pairs = [
        (left[one.index(c)], right[other.index(c)]) for c in one if c in other and c not in result
    ]
    return all(x == y and x is not None for x, y in pairs)


def _write(graph: gs.Graph, node: gs.Node, product: Product) -> None:
    out = node.outputs[0]
    a, b = reversed(node.inputs) if product.swapped else node.inputs
    inputs = [
        _turned(graph, a, product.left, f"{out.name}.left"),
        _turned(graph, b, product.right, f"{out.name}.right"),
    ]
    if product.out == tuple(range(len(product.out))):
        scalars.finish(graph, node, ir.Node("MatMul", node.name, inputs=inputs))
        return
    made, dims = ir.Variable(f"{out.name}.product"), shapes.dims(out)
    order = [product.out.index(i) for i in range(len(product.out))]
    turned = None if dims is None else tuple(dims[i] for i in order)
    shapes.note(made, shapes.dtype(out), turned)
    match.insert(graph, ir.Node("MatMul", f"{out.name}.product", {}, inputs, [made]))
    attributes = {"perm": list(product.out)}
    scalars.finish(graph, node, ir.Node("Transpose", node.name, attributes, [made]))


def _turned(graph: gs.Graph, tensor: gs.Tensor, perm: tuple[int, ...], name: str) -> gs.Tensor:
    """Return a tensor with its axes in another order."""
    if perm == tuple(range(len(perm))):
        return tensor
    values = match.constant(tensor)
    if values is not None and scalars.spare(tensor):
        return ir.Constant(name, values.transpose(perm).copy())
    dims, turned = shapes.dims(tensor), ir.Variable(name)
    whole = None if dims is None else tuple(dims[i] for i in perm)
    shapes.note(turned, shapes.dtype(tensor), whole)
    match.insert(graph, ir.Node("Transpose", name, {"perm": list(perm)}, [tensor], [turned]))
    return turned


RULES: tuple[Rule, ...] = (Rule("einsum_matmul", ("Einsum",), fuse_einsum),)
"""The rule of this file."""

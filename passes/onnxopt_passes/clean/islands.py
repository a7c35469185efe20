"""Transpose(f(Transpose(a, p), b, ...), q) -> f(Transpose(a, p after q), Transpose(b, q), ...).

An island is what lies between a Transpose and those above it: elementwise ops, Concat, and
reductions that keep their axes, whose results only the island reads. Turning the island over moves
the Transpose to its shores. A Transpose there merges with it or cancels, a constant is transposed
here and now, a single element needs nothing, and any other tensor gets a Transpose of its own. It
is done only if fewer Transposes are left.

Each op computes the same numbers in another order of axes. All operands of an op that broadcasts
must be known to have the island's rank, but for constants, which are padded with axes of size 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.clean import axes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

OPSET = 8
"""From here on all ops below broadcast as in numpy."""

MOST = 64
"""Nodes of the largest island."""

SHARED = 1024
"""Elements of the largest constant that is transposed although others read it as it is."""

UNARY = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast"),
        *("CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor"),
        *("Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log"),
        *("Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid"),
        *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
        "ThresholdedRelu",
    }
)
"""Ops that compute each element of their first input by itself."""

BROADCASTING = frozenset(
    {
        *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod"),
        *("Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    }
)
"""Ops that compute each element from the broadcast inputs."""

REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
"""Ops that drop or shorten axes; the order in which they go through them is theirs."""


@dataclass
class Island:
    """Nodes to turn over.

    Attributes:
        graph: Where they are.
        perm: The permutation of the Transpose below.
        nodes: By id; the first is the one that the Transpose reads.
        shores: The tensors that the nodes read and do not make, by id.
    """

    graph: gs.Graph
    perm: list[int]
    nodes: dict[int, gs.Node] = field(default_factory=dict)
    shores: dict[int, gs.Tensor] = field(default_factory=dict)


def permutation(node: gs.Node) -> list[int] | None:
    """Return the permutation of a Transpose, None where it depends on an unknown rank."""
    perm = node.attrs.get("perm")
    if perm is None:
        rank = axes.rank(node.inputs[0])
        return None if rank is None else list(reversed(range(rank)))
    return perm if isinstance(perm, list) and sorted(perm) == list(range(len(perm))) else None


def cross_island(graph: gs.Graph, node: gs.Node) -> bool:
    """Move a Transpose to the shores of the island above it if that leaves fewer of them."""
    perm = permutation(node)
    root = match.sole(graph, node.inputs[0])
    if graph.opset < OPSET or not perm or root is None:
        return False
    island = Island(graph, perm)
    if not _joins(island, root):
        return False
    _explore(island, root)
    _withdraw(island)
    if not island.nodes or _shorter(island) <= 0:
        return False

    out = node.outputs[0]
    match.remove(node)
    _turn(island, root, out)
    return True


def operands(node: gs.Node) -> list[gs.Tensor]:
    """Return the inputs that have the axes of the output."""
    return node.inputs[:1] if node.op in UNARY or node.op in REDUCTIONS else node.inputs


def _joins(island: Island, node: gs.Node) -> bool:
    """Whether a node can be turned over by itself."""
    if not match.here(island.graph, node) or len(node.outputs) != 1:
        return False
    if not match.is_op(node, *UNARY, *BROADCASTING, "Concat", *REDUCTIONS):
        return False
    if node.op in UNARY:
        return True
    if node.op in REDUCTIONS:
        return axes.integer(node, "keepdims", 1) == 1 and _reduced(island, node) is not None
    rank = len(island.perm)
    exact = node.op == "Concat"
    if exact and axes.integer(node, "axis") not in range(-rank, rank):
        return False
    return all(_aligned(t, rank, exact) for t in node.inputs)


def _reduced(island: Island, node: gs.Node) -> list[int] | None:
    found = axes.axes_of(node)
    return axes.normal(found, len(island.perm)) if found else None


def _aligned(tensor: gs.Tensor, rank: int, exact: bool) -> bool:
    """Whether the axes of an operand are those of the island, or can be made so."""
    maker = match.producer(tensor)
    if maker is not None and match.is_op(maker, "Transpose"):
        perm = permutation(maker)
        return perm is not None and len(perm) == rank
    found = axes.rank(tensor)
    if found is None or found > rank:
        return False
    return found == rank or (not exact and (_single(tensor) or match.constant(tensor) is not None))


def _single(tensor: gs.Tensor) -> bool:
    """Whether a tensor has one element, so that no permutation changes it."""
    shape = shapes.dims(tensor)
    return shape is not None and all(d == 1 for d in shape)


def _explore(island: Island, root: gs.Node) -> None:
    """Take in all nodes above the root that only the island reads."""
    island.nodes[id(root)] = root
    todo = [root]
    while todo:
        for tensor in operands(todo.pop()):
            above = match.producer(tensor)
            if above is None or id(above) in island.nodes or len(island.nodes) == MOST:
                continue
            if _single(tensor):  # It stays as it is, and may have fewer axes than the island.
                continue
            if _enclosed(island, tensor) and _joins(island, above):
                island.nodes[id(above)] = above
                todo.append(above)


def _enclosed(island: Island, tensor: gs.Tensor) -> bool:
    """Whether all that see a tensor are nodes of the island, as an operand with its axes."""
    return not match.fetched(tensor) and all(
        id(n) in island.nodes and not any(t is tensor for t in n.inputs[len(operands(n)) :])
        for n in tensor.outputs
    )


def _withdraw(island: Island) -> None:
    """Give up nodes at the rim that would need Transposes and save none; note the shores."""
    while True:
        island.shores = {
            id(t): t
            for node in island.nodes.values()
            for t in operands(node)
            if id(match.producer(t)) not in island.nodes
        }
        costly = [
            key
            for key, node in island.nodes.items()
            if all(id(t) in island.shores for t in operands(node))
            and not any(_above(island, t) for t in operands(node))
            and any(_cost(island, t) for t in operands(node))
        ]
        if not costly:
            return
        for key in costly:
            del island.nodes[key]


def _above(island: Island, tensor: gs.Tensor) -> tuple[gs.Tensor, list[int]] | None:
    """Return source and permutation of the Transpose that makes a tensor, None if none does."""
    maker = match.producer(tensor)
    if maker is None or not match.is_op(maker, "Transpose"):
        return None
    perm = permutation(maker)
    if perm is None or len(perm) != len(island.perm):
        return None
    return maker.inputs[0], perm


def _shorter(island: Island) -> int:
    """Return how many Transposes fewer the graph has with the island turned over."""
    gone = 1
    for tensor in island.shores.values():
        spared = _above(island, tensor) and not _single(tensor) and _enclosed(island, tensor)
        gone += int(bool(spared)) - _cost(island, tensor)
    return gone


def _cost(island: Island, tensor: gs.Tensor) -> int:
    """Return how many Transposes a tensor needs to reach the turned island."""
    if _single(tensor):
        return 0
    values = match.constant(tensor)
    if values is not None and (values.size <= SHARED or len(tensor.outputs) == 1):
        return 0
    return int(_route(island, tensor)[1] != list(range(len(island.perm))))


def _route(island: Island, tensor: gs.Tensor) -> tuple[gs.Tensor, list[int]]:
    """Return where the turned operand comes from, a Transpose above taken in, and how."""
    above = _above(island, tensor)
    if above is None:
        return tensor, island.perm
    source, perm = above
    return source, [perm[i] for i in island.perm]


def _turn(island: Island, root: gs.Node, out: gs.Tensor) -> None:
    """Give all nodes turned operands and results; `out` is the root's."""
    turned = {key: _carry(island, tensor) for key, tensor in island.shores.items()}
    for node in island.nodes.values():
        old = node.outputs[0]
        turned[id(old)] = out if node is root else _permuted(island, old, old.name)
    above = [match.producer(t) for t in island.shores.values() if _above(island, t)]
    for node in island.nodes.values():
        count = len(operands(node))
        new = turned[id(node.outputs[0])]
        _remap(island, node)
        node.inputs = [turned[id(t)] for t in node.inputs[:count]] + node.inputs[count:]
        node.outputs = [new]
    for maker in above:
        # They may lie too far up for the sweep to come by.
        if maker is not None and match.here(island.graph, maker) and not _seen(maker):
            match.remove(maker)


def _seen(node: gs.Node) -> bool:
    return any(t.outputs or match.fetched(t) for t in node.outputs)


def _remap(island: Island, node: gs.Node) -> None:
    """Rename the axes that a node names."""
    if node.op == "Concat":
        node.attrs["axis"] = island.perm.index(node.attrs["axis"] % len(island.perm))
    elif node.op in REDUCTIONS:
        reduced = _reduced(island, node) or []
        axes.set_axes(island.graph, node, sorted(island.perm.index(a) for a in reduced))


def _carry(island: Island, tensor: gs.Tensor) -> gs.Tensor:
    """Return a tensor from the shore as the turned island reads it."""
    if _single(tensor):
        return tensor
    source, perm = _route(island, tensor)
    values = match.constant(tensor)
    if values is not None and not _cost(island, tensor):
        padded = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
        return ir.Constant(f"{tensor.name}.transposed", padded.transpose(perm).copy())
    if perm == list(range(len(perm))):
        return source
    result = _permuted(island, tensor, f"{tensor.name}.transposed")
    match.insert(island.graph, ir.Node("Transpose", "", {"perm": perm}, [source], [result]))
    return result


def _permuted(island: Island, tensor: gs.Tensor, name: str) -> ir.Variable:
    """Return a new tensor that is another one turned over."""
    result = ir.Variable(name)
    shape = shapes.dims(tensor)
    turned = None if shape is None else tuple(shape[i] for i in island.perm)
    shapes.note(result, shapes.dtype(tensor), turned)
    return result

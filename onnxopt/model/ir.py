"""The graph that passes edit: GraphSurgeon's classes, with what GraphSurgeon cannot carry on them.

GraphSurgeon compares nodes by walking the graph and tensors by name, and hashes neither; the
classes here compare by identity and can be keys. Both kinds may be mixed in one graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import onnx


class Node(gs.Node):
    """A node.

    Attributes:
        rest: Fields of the message beyond op, name, domain, inputs, outputs and attributes: doc
            string, metadata, overload, device configurations. None where it has none.
        attribute_docs: Doc strings of attributes.
    """

    rest: onnx.NodeProto | None = None
    attribute_docs: dict[str, str] | None = None
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Variable(gs.Variable):
    """A tensor that is computed or fed.

    Attributes:
        carried: The `ValueInfoProto` it came with.
        known: (dtype, shape) read from it: where they still hold, it is written back as it was.
    """

    carried: onnx.ValueInfoProto | None = None
    known: tuple[Any, Any] | None = None
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Constant(gs.Constant):
    """A tensor whose values are in the file.

    Attributes:
        rest: Doc string and metadata of the initializer. None where it has none.
        carried: The `ValueInfoProto` that repeats its type, if the file has one.
    """

    rest: onnx.TensorProto | None = None
    carried: onnx.ValueInfoProto | None = None
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def values(self) -> np.ndarray:
        """The values, read-only. Looking at them does not change how they are stored."""
        held = self._values
        found: np.ndarray = held.load() if isinstance(held, LazyValues) else held
        return found

    @values.setter
    def values(self, values: np.ndarray) -> None:
        self._values = values


class Overridable(Variable):
    """An input with a default: not a constant, since callers may feed something else.

    Attributes:
        default: The initializer of the same name.
    """

    default: gs.Constant


Slot: TypeAlias = "tuple[int, onnx.ValueInfoProto, gs.Constant]"


class Graph(gs.Graph):
    """A graph or the body of an If, Loop or Scan.

    Attributes:
        rest: Metadata and quantization annotations. None where it has none.
        initializers: The constants that this graph declares, in order, used or not.
        slots: Before IR version 4, the places in the input list that initializers had to take
            (index, declaration, initializer). They are no inputs: nobody can feed them.
        stale: Types of names that no tensor has.
        passed_on: How outputs are described that are inputs of the same graph, by name.
        shadows: Names that this graph defines again although an outer graph has them.
    """

    rest: onnx.GraphProto | None
    initializers: list[gs.Constant]
    slots: list[Slot]
    stale: list[onnx.ValueInfoProto]
    passed_on: dict[str, onnx.ValueInfoProto]
    shadows: frozenset[str]
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Function(gs.Function):
    """A model-local function.

    Attributes:
        rest: What the message has beyond nodes, inputs, outputs and attributes.
    """

    rest: onnx.FunctionProto
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def carried(graph: gs.Graph, name: str, default: Any) -> Any:
    """Return what a graph of ours carries; GraphSurgeon's own graphs and functions have none."""
    return vars(graph).get(name, default)


def bodies(node: gs.Node) -> Iterator[tuple[str, gs.Graph]]:
    """Yield the subgraphs of a node with the name of their attribute."""
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            yield name, value
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            for i, graph in enumerate(value):
                yield f"{name}[{i}]", graph


def nested(graph: gs.Graph, path: str = "") -> Iterator[tuple[str, gs.Graph]]:
    """Yield a graph and all graphs inside it, outer before inner, each with its path.

    A path is `""` for the graph itself, `"If_3.then_branch/"` for a body in it, and so on: the
    node's name (its first output's where it has none) and the attribute.
    """
    stack = [(path, graph)]
    while stack:
        here, current = stack.pop()
        yield here, current
        inner = [
            (f"{here}{label(node)}.{attribute}/", body)
            for node in current.nodes
            if node.attrs
            for attribute, body in bodies(node)
        ]
        stack.extend(reversed(inner))


def label(node: gs.Node) -> str:
    """Return how reports and edit ids call a node: its name, else its first output's."""
    return node.name or next((t.name for t in node.outputs if t.name), node.op)

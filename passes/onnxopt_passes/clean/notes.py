"""What exporters note for debugging -> nothing.

torch.onnx writes a stack trace, the modules and the FX node of each operator into its
`metadata_props`, with paths of the machine that it ran on: half a megabyte for an EfficientNet.
Their keys begin with `pkg.`, the prefix of a package's own notes, or are `namespace`. Other keys,
and those of inputs, outputs, initializers and the model as a whole, are left alone. The type that a
file lists for an initializer, which has its own, goes too if nothing else is said there.

One edit for each graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.model import ir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import onnx
    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

PREFIX = "pkg."

KEYS = ("namespace",)


def drop_notes(model: Model, ctx: Context) -> int:
    """Drop what exporters noted in each graph, and types of initializers."""
    made = 0
    for path, graph in model.graphs():
        noted = [message for message in _messages(graph) if any(map(_debugs, _metadata(message)))]
        typed = [c for c in ir.carried(graph, "initializers", ()) if _repeats(graph, c)]
        if not (noted or typed) or not ctx.allow(f"notes@{path}"):
            continue
        for message in noted:
            kept = [p for p in message.metadata_props if not _debugs(p)]
            del message.metadata_props[:]
            message.metadata_props.extend(kept)
        for constant in typed:
            constant.carried = None
        made += 1
    return made


def _messages(graph: gs.Graph) -> Iterator[Any]:
    """Yield what is carried along of a graph, its nodes and the types of inner tensors."""
    yield from (ir.carried(graph, "rest", None), *ir.carried(graph, "stale", ()))
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    yield from (getattr(node, "rest", None) for node in graph.nodes)
    made = (t for node in graph.nodes for t in node.outputs)
    for tensor in (*made, *ir.carried(graph, "initializers", ())):
        if id(tensor) not in ends:
            yield getattr(tensor, "carried", None)


def _metadata(message: Any) -> Iterator[onnx.StringStringEntryProto]:
    return iter(() if message is None else message.metadata_props)


def _debugs(entry: onnx.StringStringEntryProto) -> bool:
    return entry.key.startswith(PREFIX) or entry.key in KEYS


def _repeats(graph: gs.Graph, constant: gs.Constant) -> bool:
    """Whether a file lists an initializer's type again, and says nothing else of it."""
    listed = getattr(constant, "carried", None)
    if listed is None or any(constant is t for t in graph.outputs):
        return False
    told = {field.name for field, _ in listed.ListFields()}
    return told <= {"name", "type", "metadata_props"} and all(map(_debugs, listed.metadata_props))

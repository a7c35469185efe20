"""Nodes that compute in float16, and the islands that stay in float32.

    y = op(x)  ->  y = Cast(op(Cast(x, float16)), float32)

and where one such node reads another, the two Casts between them go. So whatever else reads a
tensor, a body or the caller among it, still finds it in float32 under its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxopt import match, rewrite, shapes
from onnxopt.model import ir
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.samples import synthetic
from onnxopt.statistics import ranges

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

LARGEST = float(np.finfo(np.float16).max)
"""65504."""

MARGIN = 4.0
"""How much larger than on samples numbers may become."""

ATTEMPTS = 24
"""Inputs that are drawn to find some that the model accepts, where there are no samples."""

SAMPLES = 64
"""Calibration samples that ranges are taken from."""

FLOAT = np.dtype(np.float32)

WIDE = (
    "Exp",
    "Pow",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceProd",
    "CumSum",
    "Div",
    "Reciprocal",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "LpNormalization",
    "Sqrt",
)
"""Ops that leave float16's range easily: they stay in float32 where there are no samples."""


def islands(model: Model, ctx: Context) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the nodes that have to stay in float32, with the reason, and inputs to try on.

    Raises:
        CannotRun: onnxruntime refuses the model, or all inputs.
        SamplesError: There is no sample.
    """
    match.stamp(model.graph)
    shapes.infer(model)
    real = ctx.calibration is not None and not ctx.calibration.synthetic
    settings = Settings(False, ctx.threads, ctx.custom_ops)
    wide: set[str] = set()
    if ctx.calibration is not None and real:
        samples = ctx.calibration.take(SAMPLES)
        found = ranges.cached(model, _floats(model), samples, settings)
        limit = LARGEST / MARGIN
        wide = {n for n, h in found.items() if h.trouble or max(-h.low, h.high) > limit}
        feed = dict(next(iter(samples)).feed)
    else:
        feed = _drawn(model, ctx, settings)
    reasons = {}
    for node in model.graph.nodes:
        if _typed(model.graph, node):
            reason = _reason(node, wide, real)
            if reason:
                reasons[ir.label(node)] = reason
    return reasons, feed


def convert(model: Model, islands: dict[str, str], allow: Callable[[str], bool]) -> int:
    """Let all nodes compute in float16 but the islands and what `allow` forbids.

    Returns:
        How many do.
    """
    shapes.infer(model)
    with rewrite.editing(model):
        graph = model.graph
        chosen = [
            node
            for node in list(graph.nodes)
            if ir.label(node) not in islands
            and _typed(graph, node)
            and allow(f"half@{ir.label(node)}")
        ]
        edit = _Edit(graph)
        for node in chosen:
            edit.outputs(node)
        for node in chosen:
            edit.inputs(node)
        edit.finish()
    return len(chosen)


class _Edit:
    """Gives tensors of one graph a twin in float16.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.twins: dict[int, gs.Tensor] = {}
        self.casts: list[tuple[gs.Tensor, gs.Tensor]] = []

    def outputs(self, node: gs.Node) -> None:
        """Let a node write float16."""
        made = []
        for tensor in node.outputs:
            if not tensor.name or shapes.dtype(tensor) != FLOAT:
                made.append(tensor)
                continue
            twin = ir.Variable(f"{tensor.name}_half", np.float16)
            self.twins[id(tensor)] = twin
            self.casts.append((tensor, twin))
            made.append(twin)
        node.outputs = made

    def inputs(self, node: gs.Node) -> None:
        """Let a node read float16."""
        kept = _fixed(self.graph, node)
        node.inputs = [
            self._twin(t) if i not in kept and t.name and shapes.dtype(t) == FLOAT else t
            for i, t in enumerate(node.inputs)
        ]

    def finish(self) -> None:
        """Cast back what is still read in float32."""
        for tensor, twin in self.casts:
            if tensor.outputs or match.fetched(tensor):
                self._cast(twin, tensor, np.float32)

    def _twin(self, tensor: gs.Tensor) -> gs.Tensor:
        found = self.twins.get(id(tensor))
        if found is None:
            found = self.twins[id(tensor)] = self._made(tensor)
        return found

    def _made(self, tensor: gs.Tensor) -> gs.Tensor:
        values = match.constant(tensor)
        if values is not None:
            return ir.Constant(f"{tensor.name}_half", values.astype(np.float16))
        twin = ir.Variable(f"{tensor.name}_half", np.float16)
        self._cast(tensor, twin, np.float16)
        return twin

    def _cast(self, source: gs.Tensor, target: gs.Tensor, dtype: type) -> None:
        to = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        match.insert(
            self.graph, ir.Node("Cast", f"{target.name}_Cast", {"to": to}, [source], [target])
        )


def _floats(model: Model) -> list[str]:
    """Return the float tensors of the main graph that nodes with a place for float16 touch."""
    found = {}
    for node in model.graph.nodes:
        if _typed(model.graph, node):
            for tensor in (*node.inputs, *node.outputs):
                if tensor.name and match.constant(tensor) is None:
                    found[tensor.name] = shapes.dtype(tensor) == FLOAT
    known = ranges.named(model)
    return [name for name, is_float in found.items() if is_float and name in known]


def _drawn(model: Model, ctx: Context, settings: Settings) -> dict[str, Any]:
    exported = model.export()
    session = Session(exported, settings)
    refused = CannotRun("there are no inputs to try")
    for sample in synthetic(exported.inputs, seed=ctx.seed, n=ATTEMPTS):
        try:
            session.run(sample.feed)
        except CannotRun as e:
            refused = e
        else:
            return dict(sample.feed)
    raise refused


def _reason(node: gs.Node, wide: set[str], real: bool) -> str:
    """Return why a node that could compute in float16 stays in float32; empty if it need not."""
    if not real and node.op in WIDE:
        return "there are no samples that show its range"
    for tensor in (*node.inputs, *node.outputs):
        if tensor.name in wide:
            return f"tensor {tensor.name!r} comes near the end of float16's range"
    for tensor in node.inputs:
        values = match.constant(tensor)
        if values is not None and values.dtype == FLOAT and not _fits(values):
            return f"float16 has no numbers for constant {tensor.name!r}"
    return ""


def _fits(values: np.ndarray) -> bool:
    """Whether float16 holds a constant: nothing overflows, and it does not vanish."""
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST:
        return False
    least = np.finfo(np.float16).smallest_normal
    return largest == 0 or largest >= least


def _typed(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether ONNX lets all float32 outputs of a node be float16 along with its inputs."""
    schema = _schema(graph, node)
    if schema is None or node.op == "Cast" or any(True for _ in ir.bodies(node)):
        return False
    names = [t for t in (*node.inputs, *node.outputs) if t.name]
    if any(shapes.dtype(t) is None for t in names):
        return False
    half = _halves(schema)
    read = {
        _formal(schema.inputs, i)
        for i, t in enumerate(node.inputs)
        if t.name and shapes.dtype(t) == FLOAT
    }
    made = {
        _formal(schema.outputs, i)
        for i, t in enumerate(node.outputs)
        if t.name and shapes.dtype(t) == FLOAT
    }
    free = {r for r in read if r in half}
    return bool(free) and all(r in half or r.startswith("tensor(") for r in read) and made <= free


def _fixed(graph: gs.Graph, node: gs.Node) -> set[int]:
    """Return which inputs of a node are float32 in any case."""
    schema = _schema(graph, node)
    if schema is None:
        return set()
    half = _halves(schema)
    return {i for i in range(len(node.inputs)) if _formal(schema.inputs, i) not in half}


def _schema(graph: gs.Graph, node: gs.Node) -> onnx.defs.OpSchema | None:
    if node.domain not in match.STANDARD:
        return None
    try:
        return onnx.defs.get_schema(node.op, graph.opset, "")
    except onnx.defs.SchemaError:
        return None


def _halves(schema: onnx.defs.OpSchema) -> set[str]:
    """Return the type variables that may be float16."""
    return {
        c.type_param_str
        for c in schema.type_constraints
        if "tensor(float16)" in c.allowed_type_strs
    }


def _formal(parameters: Any, index: int) -> str:
    """Return the type of a parameter, the last one of which may be variadic."""
    if not parameters:
        return ""
    return str(parameters[min(index, len(parameters) - 1)].type_str)

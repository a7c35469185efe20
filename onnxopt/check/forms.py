"""OPT2xx, third part: arithmetic that a layer could absorb, and operators with a faster form."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxopt.check.finding import Level, Rule, grouped
from onnxopt.check.subject import attribute, is_op, outside_functions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Scope, Subject

LAYERS = ("Conv", "ConvTranspose", "Gemm")

AFFINE = ("Mul", "Div", "Add", "Sub")

BROADCAST = 7
"""The opset from which on arithmetic broadcasts as it does today."""


HARD_SWISH = 14
"""The opset that has it."""


def unfused_affine(subject: Subject) -> Iterator[tuple[str, str]]:
    """A layer is followed by arithmetic with constants that it could absorb.

    Mul, Div, Add or Sub by one value, or one a channel, behind a Conv, ConvTranspose or Gemm fold
    into its weights and bias. `--fix` folds them.
    """
    if subject.opset < BROADCAST:
        return
    found = []
    for scope in outside_functions(subject):
        grown: dict[str, onnx.NodeProto] = {}
        for node in scope.nodes:
            layer = _absorbing(subject, scope, node, grown) if is_op(node, *AFFINE) else None
            if layer is not None:
                grown[node.output[0]] = layer
                said = f"this {node.op_type} could be folded into {scope.label(layer)}"
                found.append((scope.label(node), said))
    yield from grouped(found, "nodes could be folded into the layers before them")


def _absorbing(
    subject: Subject, scope: Scope, node: onnx.NodeProto, grown: dict[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    """Return the layer that could take a node in.

    Args:
        subject: The model.
        scope: The graph.
        node: Mul, Div, Add or Sub.
        grown: What layers return once the nodes found so far are folded.
    """
    for x, other in (node.input, list(node.input)[::-1]):
        tensor = subject.constant(scope, other)
        if tensor is None or (is_op(node, "Div") and other == node.input[0]):
            continue
        sole = scope.sole(x, *LAYERS) or (scope.sole(x, *AFFINE) and grown.get(x))
        if not sole:
            continue
        weights = [subject.constant(scope, n) for n in sole.input[1:] if n]
        if None in weights or not weights or not _one_a_channel(sole, weights[0], tensor):
            continue
        if all(t is not None and t.data_type == tensor.data_type for t in weights):
            return sole
    return None


def _one_a_channel(
    layer: onnx.NodeProto, weight: onnx.TensorProto | None, constant: onnx.TensorProto
) -> bool:
    """Whether a constant is one value, or one a channel of what a layer returns."""
    shape = tuple(weight.dims) if weight is not None else ()
    if is_op(layer, "Gemm"):
        channels, rank = shape[0 if attribute(layer, "transB", 0) else 1], 2
    else:
        per_group = is_op(layer, "ConvTranspose")
        channels = shape[1] * int(_number(attribute(layer, "group", 1))) if per_group else shape[0]
        rank = len(shape)
    if len(constant.dims) > rank:
        return False
    dims = (1,) * (rank - len(constant.dims)) + tuple(constant.dims)
    return all(d == 1 or (axis == 1 and d == channels) for axis, d in enumerate(dims))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def slow_kernel(subject: Subject) -> Iterator[tuple[str, str]]:
    """An operator has a faster form that computes the same.

    Pow with a constant exponent of 2 is a multiplication, division by a constant too; a decomposed
    HardSigmoid or HardSwish, or a Min and Max pair, is one kernel. `--fix` rewrites them where that
    is exact.
    """
    forms: Counter[str] = Counter()
    first: dict[str, str] = {}
    for scope in outside_functions(subject):
        for node in scope.nodes:
            form = _faster(subject, scope, node)
            if form:
                forms[form] += 1
                first.setdefault(form, scope.label(node))
    for form, count in forms.items():
        yield first[form], f"{form} ({count} of them)" if count > 1 else form


def _faster(subject: Subject, scope: Scope, node: onnx.NodeProto) -> str:
    """Return which faster form a node has; empty where none is known."""
    if is_op(node, "Pow") and _scalar(subject, scope, node, 1) == 2.0:
        averaged = any(is_op(r, "ReduceMean") for r in scope.readers[node.output[0]])
        return "" if averaged else "Pow(x, 2) is slower than Mul(x, x)"
    if is_op(node, "Mul", "Div"):
        return _hard_sigmoid(subject, scope, node)
    if is_op(node, "Max") and len(node.input) == 2 and subject.opset >= BROADCAST + 1:
        zero = 0.0 in (_scalar(subject, scope, node, 0), _scalar(subject, scope, node, 1))
        return "Max(x, 0) is slower than Relu" if zero else ""
    return ""


def _hard_sigmoid(subject: Subject, scope: Scope, node: onnx.NodeProto) -> str:
    """Recognise clip(x + 3, 0, 6) that is divided by 6, or multiplied with x and then divided."""
    for name in node.input:
        clip = scope.sole(name, "Clip")
        line = scope.sole(clip.input[0], "Add") if clip is not None else None
        if clip is None or line is None or _bounds(subject, scope, clip) != (0.0, 6.0):
            continue
        shift = [_scalar(subject, scope, line, i) for i in (0, 1)]
        if 3.0 not in shift:
            continue
        x = line.input[1 - shift.index(3.0)]
        if x in node.input:
            op = "HardSwish" if subject.opset >= HARD_SWISH else "HardSigmoid"
            return f"x * Clip(x + 3, 0, 6) / 6 is slower than {op}"
        gated = any(_scalar(subject, scope, node, i) is not None for i in (0, 1))
        return "Clip(x + 3, 0, 6) / 6 is slower than HardSigmoid" if gated else ""
    return ""


def _bounds(
    subject: Subject, scope: Scope, clip: onnx.NodeProto
) -> tuple[float | None, float | None]:
    """Return what a Clip keeps values between."""
    if subject.opset < 11:
        low, high = attribute(clip, "min", None), attribute(clip, "max", None)
        return (
            low if isinstance(low, float) else None,
            high if isinstance(high, float) else None,
        )
    return _scalar(subject, scope, clip, 1), _scalar(subject, scope, clip, 2)


def _scalar(subject: Subject, scope: Scope, node: onnx.NodeProto, index: int) -> float | None:
    name = node.input[index] if len(node.input) > index else ""
    tensor = subject.constant(scope, name) if name else None
    values = None if tensor is None else subject.values(tensor)
    return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None


RULES = (
    Rule("OPT210", Level.WARNING, slow_kernel, fixable=True),
    Rule("OPT211", Level.WARNING, unfused_affine, fixable=True),
)

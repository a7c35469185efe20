"""OPT2xx, second part: what onnxruntime computes faster in another form."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx import TensorProto

from onnxopt.check.finding import Level, Rule
from onnxopt.check.subject import is_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Scope, Subject

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

QUANTIZABLE = 100_000
"""Elements of float weights in all; below that int8 spares little."""

FUSED = (
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "LeakyRelu",
    "Sigmoid", "Softmax", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat", "Resize",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice", "Gather", "Where",
    "ArgMax", "Identity", "ReduceMean", "Pad",
)  # fmt: skip
"""Ops that onnxruntime runs in int8, or moves Q/DQ across."""

BLOCK = 4
"""Channels; other widths leave onnxruntime's blocked layout."""

LEAST = 8
"""Channels; narrower layers cost next to nothing."""

LISTED = 4


def float_weights(subject: Subject) -> Iterator[tuple[str, str]]:
    """Weights are float32 that could be int8.

    A quarter of the size, and with real samples mostly faster: `onnxopt run --passes quant --calib
    PATH` does it within `--max-drop`. It is not exact, so `--fix` does not do it.
    """
    total = 0
    for scope in subject.scopes:
        for node in scope.nodes:
            if is_op(node, *WEIGHTED) and len(node.input) > 1:
                tensor = subject.constant(scope, node.input[1])
                if tensor is not None and tensor.data_type == TensorProto.FLOAT:
                    total += subject.size(tensor) // 4
    if total >= QUANTIZABLE:
        yield "", f"{total:,} weights are float32; as int8 they take a quarter of the room"


def unfused_qdq(subject: Subject) -> Iterator[tuple[str, str]]:
    """A DequantizeLinear feeds an operator that has no int8 kernel.

    The operator runs in float between two conversions, which costs more than leaving it float.
    Leave it out when quantizing.
    """
    ops: Counter[str] = Counter()
    first = ""
    for scope in subject.scopes:
        for node in scope.nodes:
            if is_op(node, "DequantizeLinear") and node.input[0] in scope.makers:
                for reader in scope.readers[node.output[0]]:
                    alone = not is_op(reader, *FUSED, "QuantizeLinear")
                    if alone and _quantized_again(scope, reader):
                        ops[reader.op_type] += 1
                        first = first or scope.label(reader)
    if ops:
        listed = ", ".join(f"{op} ({n})" for op, n in ops.most_common(LISTED))
        yield first, f"runs in float between DequantizeLinear and QuantizeLinear: {listed}"


def ragged_channels(subject: Subject) -> Iterator[tuple[str, str]]:
    """A convolution has a number of channels that is no multiple of 4.

    onnxruntime then leaves its blocked layout: a depthwise layer takes up to 2.7 times as long as
    one that is a little wider. Choose widths in multiples of 16, or at least 4, when training.
    """
    found = []
    for scope in subject.scopes:
        for node in scope.nodes:
            tensor = subject.constant(scope, node.input[1]) if is_op(node, "Conv") else None
            width = tensor.dims[0] if tensor is not None and len(tensor.dims) == 4 else 0
            last = any(o in scope.outputs for o in node.output)
            if width > LEAST and width % BLOCK and not last:
                found.append((scope.label(node), int(width)))
    if found:
        listed = ", ".join(f"{name} ({width})" for name, width in found[:LISTED])
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        yield found[0][0], f"channels that are no multiple of {BLOCK}: {listed}{more}"


def _quantized_again(scope: Scope, node: onnx.NodeProto) -> bool:
    return any(is_op(r, "QuantizeLinear") for o in node.output for r in scope.readers[o])


RULES = (
    Rule("OPT207", Level.NOTE, float_weights),
    Rule("OPT208", Level.NOTE, unfused_qdq),
    Rule("OPT209", Level.NOTE, ragged_channels),
)

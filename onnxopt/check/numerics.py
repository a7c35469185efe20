"""OPT3xx: are the numbers in it sound?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxopt.check.finding import Level, Rule, grouped
from onnxopt.check.subject import is_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Scope, Subject

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

LINEAR = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization",
    "LSTM", "GRU", "RNN",
)  # fmt: skip
"""Ops whose weights have no reason to hold an infinity; masks of attention do."""

HALF = float(np.finfo(np.float16).max)
BLOCK = 1 << 22
"""Elements that are looked at together."""


def nan_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight holds NaN.

    Whatever reads it gives NaN. Training diverged, or the file is damaged: export an earlier
    checkpoint.
    """
    for scope, name, values in _floats(subject):
        count = sum(int(np.isnan(block).sum()) for block in _blocks(values))
        if count:
            yield scope.path + name, f"{count:,} of {values.size:,} elements are NaN"


def infinite_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight of a layer holds an infinity.

    It overflowed in training or on conversion to float16. An infinity in a mask of attention is
    meant and not reported.
    """
    for scope, name, values in _floats(subject):
        if not any(is_op(node, *LINEAR) for node in scope.readers[name]):
            continue
        count = sum(int(np.isinf(block).sum()) for block in _blocks(values))
        if count:
            yield scope.path + name, f"{count:,} of {values.size:,} elements are infinite"


def denormal_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight holds denormal numbers.

    They are as good as zero, and on many processors arithmetic with them takes a hundred times as
    long. `--fix` sets them to zero where that changes no output.
    """
    found = []
    for scope, name, values in _floats(subject):
        if values.dtype == np.float16:
            continue  # processors compute float16 as float32, where these are normal
        tiny = np.finfo(values.dtype).tiny
        count = sum(int(((b != 0) & (np.abs(b) < tiny)).sum()) for b in _blocks(values))
        if count:
            said = f"{count:,} of {values.size:,} elements are denormal"
            found.append((scope.path + name, said))
    yield from grouped(found, "weights hold denormal numbers")


def half_overflow(subject: Subject) -> Iterator[tuple[str, str]]:
    """A constant is too large for float16.

    On conversion to float16 it becomes an infinity, and NaN soon after; masks of -1e9 and the like
    are the usual case. Use -65504 or -1e4 in its place.
    """
    found = []
    for scope, name, values in _floats(subject):
        if values.dtype == np.float16 or not values.size:
            continue
        most = max(float(np.abs(b[np.isfinite(b)]).max(initial=0)) for b in _blocks(values))
        if most > HALF:
            found.append((scope.path + name, f"holds {most:.3g}, and float16 ends at {HALF:.0f}"))
    yield from grouped(found, f"constants are too large for float16, which ends at {HALF:.0f}")


def negative_variance(subject: Subject) -> Iterator[tuple[str, str]]:
    """A BatchNormalization has a negative variance.

    Its square root is NaN. The statistics are damaged: export the model again.
    """
    for scope, node, values in _inputs(subject, "BatchNormalization", 4):
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        count = int((values.astype(np.float64) + epsilon < 0).sum())
        if count:
            yield scope.label(node), f"{count} of its {values.size} variances are negative"


def bad_scale(subject: Subject) -> Iterator[tuple[str, str]]:
    """A scale of quantization is zero, negative, infinite or NaN.

    What it quantizes is lost. Calibrate again, with samples on which that tensor is not constant.
    """
    for op in ("QuantizeLinear", "DequantizeLinear"):
        for scope, node, values in _inputs(subject, op, 1):
            scale = values.astype(np.float64)
            count = int((~(np.isfinite(scale) & (scale > 0))).sum())
            if count:
                yield scope.label(node), f"{count} of {scale.size} scales are not positive numbers"


def _floats(subject: Subject) -> Iterator[tuple[Scope, str, np.ndarray]]:
    for scope, name, tensor in subject.constants():
        if tensor.data_type in FLOATS:
            values = subject.values(tensor)
            if values is not None:
                yield scope, name, values


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def _inputs(
    subject: Subject, op: str, index: int
) -> Iterator[tuple[Scope, onnx.NodeProto, np.ndarray]]:
    """Yield nodes of an op with the values of one of their inputs, where it is constant."""
    for scope in subject.scopes:
        for node in scope.nodes:
            if is_op(node, op) and len(node.input) > index:
                tensor = subject.constant(scope, node.input[index])
                values = None if tensor is None else subject.values(tensor)
                if values is not None and values.dtype.kind == "f":
                    yield scope, node, values


RULES = (
    Rule("OPT301", Level.ERROR, nan_weight),
    Rule("OPT302", Level.ERROR, infinite_weight),
    Rule("OPT303", Level.WARNING, denormal_weight, fixable=True),
    Rule("OPT304", Level.NOTE, half_overflow),
    Rule("OPT305", Level.ERROR, negative_variance),
    Rule("OPT306", Level.ERROR, bad_scale),
)

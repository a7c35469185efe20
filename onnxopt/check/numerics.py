"""OPT3xx: are the numbers in it sound?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt.check.finding import Level, Rule, grouped
from onnxopt.check.subject import is_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxopt.check.subject import Scope, Subject

LINEAR = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization",
    "LSTM", "GRU", "RNN",
)  # fmt: skip
"""Ops whose weights have no reason to hold an infinity; masks of attention do."""

HALF = float(np.finfo(np.float16).max)


def nan_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight holds NaN.

    Whatever reads it gives NaN. Training diverged, or the file is damaged: export an earlier
    checkpoint.
    """
    for found in subject.floats:
        if found.nans:
            yield found.label, f"{found.nans:,} of {found.size:,} elements are NaN"


def infinite_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight of a layer holds an infinity.

    It overflowed in training or on conversion to float16. An infinity in a mask of attention is
    meant and not reported.
    """
    for found in subject.floats:
        readers = found.scope.readers[found.name]
        if found.infinite and any(is_op(node, *LINEAR) for node in readers):
            yield found.label, f"{found.infinite:,} of {found.size:,} elements are infinite"


def denormal_weight(subject: Subject) -> Iterator[tuple[str, str]]:
    """A weight holds denormal numbers.

    They are as good as zero, and on many processors arithmetic with them takes a hundred times as
    long. `--fix` sets them to zero where that changes no output. Of float16 nothing is said:
    processors compute it as float32, where these numbers are normal.
    """
    said = [
        (f.label, f"{f.denormal:,} of {f.size:,} elements are denormal")
        for f in subject.floats
        if f.denormal and f.dtype != np.float16
    ]
    yield from grouped(said, "weights hold denormal numbers")


def half_overflow(subject: Subject) -> Iterator[tuple[str, str]]:
    """A constant is too large for float16.

    On conversion to float16 it becomes an infinity, and NaN soon after; masks of -1e9 and the like
    are the usual case. Use -65504 or -1e4 in its place.
    """
    said = [
        (f.label, f"holds {f.most:.3g}, and float16 ends at {HALF:.0f}")
        for f in subject.floats
        if f.most > HALF
    ]
    yield from grouped(said, f"constants are too large for float16, which ends at {HALF:.0f}")


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

"""The grid of options: each combination is supported, or refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt_passes.quant.scheme import GRIDS

if TYPE_CHECKING:
    from onnxopt_passes.quant import Quant

HALF = ("fp16", "bf16")

DATA = ("static", "dynamic", "hybrid")
"""Modes that compute in integers, and are tried on samples."""


def refusal(q: Quant) -> str:
    """Return why a combination of options cannot be had; empty if it can."""
    if q.mode in HALF:
        return _half(q)
    if q.mode in DATA:
        return _integer_arithmetic(q)
    return _stored(q)


def _half(q: Quant) -> str:
    defaults = type(q)()
    for name in ("weights", "activations", "granularity", "block", "symmetric"):
        if getattr(q, name) != getattr(defaults, name):
            return f"mode={q.mode} rounds floats to 16 bits: it has no option {name!r}"
    return ""


def _integer_arithmetic(q: Quant) -> str:
    if q.weights not in ("int8", "uint8"):
        return (
            f"weights={q.weights} with mode={q.mode}: onnxruntime multiplies integers of 8"
            " bits only; mode=weights stores other widths and computes in float"
        )
    if q.activations in ("int16", "uint16"):
        return (
            f"activations={q.activations}: onnxruntime has no 16-bit kernel on a CPU, so that ops"
            " would run in float between QuantizeLinear and DequantizeLinear, slower than before"
        )
    if q.granularity == "block":
        return (
            f"granularity=block with mode={q.mode}: integer kernels take one scale a channel;"
            " blocks are for mode=weights"
        )
    if q.weights == "uint8" and q.granularity != "tensor":
        return (
            "weights=uint8: onnxruntime's integer kernels take one zero point: granularity=tensor"
        )
    if q.weights == "int8" and not q.symmetric:
        return "weights=int8 with symmetric=false: kernels that are fast need the zero point 0"
    if q.mode == "dynamic" and q.activations == "int8":
        return "activations=int8 with mode=dynamic: DynamicQuantizeLinear makes uint8 only"
    return ""


def _stored(q: Quant) -> str:
    bits = GRIDS[q.weights].bits
    if q.activations != "auto" and q.mode == "weights":
        return "mode=weights leaves activations in float: it has no option 'activations'"
    if bits < 8 and q.granularity not in ("auto", "block"):
        return f"weights={q.weights}: so few steps need granularity=block"
    if bits == 16 and q.granularity == "block":
        return f"weights={q.weights} with granularity=block: 16 bits need no blocks"
    return ""

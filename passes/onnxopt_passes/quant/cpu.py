"""Which 8-bit kernels the CPU has, asked of onnxruntime itself.

Without VNNI, x64 adds pairs of products u8 * s8 in int16, which saturates: 255 * 127 twice comes
out as 32767. A product of two small matrices shows it, whatever the system says of the CPU.
"""

from __future__ import annotations

import platform
from functools import cache

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxopt.runtime import run_once

DEPTH = 64
"""Products that are summed, enough for the kernels that work on pairs."""


@cache
def detect() -> str:
    """Return `x64-vnni`, `x64`, `arm64`, or `generic` for any other machine."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return "arm64"
    if machine not in ("x86_64", "amd64"):
        return "generic"
    return "x64" if saturates() else "x64-vnni"


@cache
def saturates() -> bool:
    """Whether sums of products u8 * s8 come out wrong here."""
    weight = numpy_helper.from_array(np.full((DEPTH, 16), 127, np.int8), "w")
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [16, DEPTH])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [16, 16])
    graph = helper.make_graph([node], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = run_once(model, {"x": np.full((16, DEPTH), 255, np.uint8)})["y"]
    return bool(np.any(found != DEPTH * 255 * 127))

"""A chain of Identity nodes, and the edit that drops one."""

from __future__ import annotations

import onnx
import onnx.parser

from onnxopt import match

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N,8] x) => (float[N,8] y)
{
  %s
}
"""


def chain(length: int = 24) -> onnx.ModelProto:
    """x -> Identity -> Identity -> ... -> y, every node named."""
    names = ["x", *(f"t{i}" for i in range(1, length)), "y"]
    lines = [f"[n{i}] {names[i + 1]} = Identity({names[i]})" for i in range(length)]
    return onnx.parser.parse_model(CHAIN % "\n".join(lines))


def drop(graph, node) -> bool:
    """Drop an Identity; a right edit."""
    if not match.replace(node.outputs[0], node.inputs[0]):
        return False
    match.remove(node)
    return True

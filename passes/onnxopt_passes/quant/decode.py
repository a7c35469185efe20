"""Nodes that turn stored integers back into a weight.

    w = (integers - zero) * scale        as Cast, Sub, Mul

onnxruntime computes that once, when it loads the model, so that no kernel and no fusion sees a
difference; a DequantizeLinear it would run at each inference, and it would stop fusions of Conv.
Two forms are not folded: rows of an embedding are looked up as integers, and a MatMul of few rows
reads a DequantizeLinear, which becomes one MatMulNBits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from onnxopt import match
from onnxopt.model import ir

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxopt_passes.quant.coded import Coded

SLICE_INPUTS = 10
"""Opset since which Slice takes its bounds as inputs."""


class Chain:
    """Adds nodes to one graph, named after one weight.

    Args:
        graph: Where they go.
        name: The weight's name.
    """

    def __init__(self, graph: gs.Graph, name: str) -> None:
        self.graph, self.name = graph, name
        self._count = 0

    def add(self, op: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Tensor:
        """Add a node, named by its output alone, which is short; return the output."""
        self._count += 1
        output = ir.Variable(f"{self.name}_{self._count}")
        match.insert(self.graph, ir.Node(op, "", attrs, list(inputs), [output]))
        return output

    def hold(self, what: str, values: np.ndarray) -> gs.Tensor:
        """Return a constant."""
        return ir.Constant(f"{self.name}_{what}", np.ascontiguousarray(values))


class Stored:
    """A weight's integers and scales as constants that all its readers share.

    Args:
        name: The weight's name.
        coded: Its integers.
        dtype: Its type, which readers are given.
    """

    def __init__(self, name: str, coded: Coded, dtype: np.dtype) -> None:
        integers, scale, zero = coded.stored()
        self.name, self.coded, self.dtype = name, coded, dtype
        self.integers = ir.Constant(f"{name}_q", np.ascontiguousarray(integers))
        self.scale = ir.Constant(f"{name}_scale", np.ascontiguousarray(scale))
        self.zero = None if zero is None else ir.Constant(f"{name}_zero", zero)

    def whole(self, graph: gs.Graph) -> gs.Tensor:
        """Return the weight, from nodes put into a graph."""
        chain = Chain(graph, self.name)
        found = self._floats(chain, self.integers, self.scale, self.zero, 2)
        if self.coded.view is not None:
            found = self._join(chain, found)
        return self._as_read(chain, found)

    def rows(self, graph: gs.Graph, ids: gs.Tensor, rank: int, name: str) -> gs.Tensor:
        """Return what Gather along the first axis gives, looked up in the integers.

        Args:
            graph: Where the nodes go.
            ids: The indices.
            rank: How many axes they have.
            name: Prefix of the nodes.
        """
        chain = Chain(graph, name)
        integers = chain.add("Gather", self.integers, ids, axis=0)
        scale = chain.add("Gather", self.scale, ids, axis=0)
        zero = None if self.zero is None else chain.add("Gather", self.zero, ids, axis=0)
        found = self._floats(chain, integers, scale, zero, rank + 1)
        if self.coded.view is not None:
            width = self.coded.shape[1]
            blocks = -(-width // self.coded.params.block) * self.coded.params.block
            shape = chain.hold("rows_shape", np.array([0] * rank + [blocks], np.int64))
            found = chain.add("Reshape", found, shape)
            if blocks > width:
                found = _crop(chain, found, rank, width)
        return self._as_read(chain, found)

    def dequantized(self, graph: gs.Graph) -> gs.Tensor:
        """Return a matrix behind one DequantizeLinear: a scale a column, or blocks of rows."""
        chain = Chain(graph, self.name)
        params, coded = self.coded.params, self.coded
        integers = chain.hold("q", coded.integers.reshape(coded.shape))
        attrs: dict[str, Any] = {"axis": 1}
        scale, zero = params.scale, params.zero_point
        if coded.view is not None:
            attrs = {"axis": 0, "block_size": params.block}
            scale, zero = (p.reshape(-1, coded.shape[1]) for p in (scale, zero))
        inputs = [integers, chain.hold("scale", scale)]
        if zero.astype(np.int64).any() or not params.grid.signed:
            inputs.append(chain.hold("zero", zero))
        return chain.add("DequantizeLinear", *inputs, **attrs)

    def _floats(
        self,
        chain: Chain,
        integers: gs.Tensor,
        scale: gs.Tensor,
        zero: gs.Tensor | None,
        axis: int,
    ) -> gs.Tensor:
        """Unpack along an axis, subtract and scale."""
        found = chain.add("Cast", integers, to=_type(np.float32))
        if self.coded.planes > 1:
            found = _unpack(chain, found, axis, self.coded.planes, self.coded.grid.bits)
        if zero is not None:
            found = chain.add("Sub", found, chain.add("Cast", zero, to=_type(np.float32)))
        return chain.add("Mul", found, scale)

    def _join(self, chain: Chain, found: gs.Tensor) -> gs.Tensor:
        """Put blocks together again, and drop what filled the last one."""
        before, length, after = self.coded.view or (1, 1, 1)
        wide = -(-length // self.coded.params.block) * self.coded.params.block
        if wide > length:
            shape = chain.hold("blocks_shape", np.array([before, wide, after], np.int64))
            found = _crop(chain, chain.add("Reshape", found, shape), 1, length)
        shape = chain.hold("shape", np.array(self.coded.shape, np.int64))
        return chain.add("Reshape", found, shape)

    def _as_read(self, chain: Chain, found: gs.Tensor) -> gs.Tensor:
        if self.dtype == np.float32:
            return found
        return chain.add("Cast", found, to=_type(self.dtype))


def _unpack(chain: Chain, packed: gs.Tensor, axis: int, planes: int, bits: int) -> gs.Tensor:
    """Split bytes, as floats, into integers: the lowest bits first."""
    base = float(1 << bits)
    up, down = (chain.hold(n, np.float32(v)) for n, v in (("up", base), ("down", 1 / base)))
    parts, rest = [], packed
    for _ in range(planes - 1):
        above = chain.add("Floor", chain.add("Mul", rest, down))
        parts.append(chain.add("Sub", rest, chain.add("Mul", above, up)))
        rest = above
    return chain.add("Concat", *parts, rest, axis=axis)


def _crop(chain: Chain, tensor: gs.Tensor, axis: int, length: int) -> gs.Tensor:
    bounds = {"starts": 0, "ends": length, "axes": axis}
    if chain.graph.opset < SLICE_INPUTS:
        return chain.add("Slice", tensor, **{k: [v] for k, v in bounds.items()})
    inputs = [chain.hold(k, np.array([v], np.int64)) for k, v in bounds.items()]
    return chain.add("Slice", tensor, *inputs)


def _type(dtype: np.dtype | type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

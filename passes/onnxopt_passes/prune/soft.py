"""Statistics over an axis that is cut: what the certificate compares a soft cut with.

Where a mean or a variance runs over indices that go, the cut model takes it over those that stay,
and zeroed slices would still be counted. So the reference takes it over those that stay as well,
written out over the full width with a mask m of the indices that stay:

    mean(x)              ->  mean(m x) * n / kept
    LayerNormalization   ->  d = x - mean(x),  d / sqrt(mean(d d) + epsilon) * scale + bias
    RMSNormalization     ->  x / sqrt(mean(x x) + epsilon) * scale

That proves that the right slices went. That the outputs did not change as they would for an exact
group it does not prove: nothing is equal to the uncut model there, and layers have to be fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxopt import match, shapes
from onnxopt.model import ir
from onnxopt_passes.prune import axes, positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_graphsurgeon as gs
    from numpy.typing import ArrayLike

    from onnxopt_passes.prune.axes import Var
    from onnxopt_passes.prune.sheet import Sheet

AXES_INPUT = 18
"""From this opset on, the axes of ReduceMean are an input."""


@dataclass(frozen=True)
class Statistic:
    """A node with a mean over axes that may be cut if that is made up for.

    Attributes:
        node: ReduceMean, LayerNormalization, RMSNormalization or InstanceNormalization.
        over: Axes of its first input, ascending.
    """

    node: gs.Node
    over: tuple[int, ...]


def restate(graph: gs.Graph, sheet: Sheet, chosen: Mapping[Var, np.ndarray]) -> None:
    """Let all means take the indices that stay alone, in place; `sheet` is spent afterwards."""
    for number, statistic in enumerate(sheet.statistics):
        found = sheet.axes(statistic.node.inputs[0])
        stays = {
            i: positions.kept(found[i], chosen)
            for i in statistic.over
            if any(var in chosen for var in axes.leaves(found[i]))
        }
        if stays:
            _Restated(graph, statistic, sheet, stays, f"soft_{number}").write()


class _Restated:
    """One node, and what takes its place."""

    def __init__(
        self,
        graph: gs.Graph,
        statistic: Statistic,
        sheet: Sheet,
        stays: Mapping[int, np.ndarray],
        name: str,
    ) -> None:
        self._graph, self._name = graph, name
        self._node, self._over = statistic.node, statistic.over
        source = self._node.inputs[0]
        self._rank = len(sheet.axes(source))
        self._dtype = shapes.dtype(source) or np.dtype(np.float32)
        self._mask = np.ones([1] * self._rank, self._dtype)
        self._ratio = 1.0
        for i, kept in stays.items():
            length = axes.size(sheet.axes(source)[i]) or 0
            one = np.zeros(length, self._dtype)
            one[kept] = 1
            self._mask = self._mask * one.reshape([-1 if j == i else 1 for j in range(self._rank)])
            self._ratio *= length / len(kept)
        self._made = 0

    def write(self) -> None:
        node = self._node
        if node.op == "ReduceMean":
            found = self._mean(node.inputs[0], node.attrs.get("keepdims", 1))
        else:
            found = self._normalized(node)
        out = node.outputs[0]
        match.remove(node)
        self._graph.nodes = [n for n in self._graph.nodes if n is not node]
        match.insert(self._graph, ir.Node("Identity", self._name, {}, [found], [out]))

    def _op(self, kind: str, *inputs: gs.Tensor, **attrs: object) -> gs.Tensor:
        self._made += 1
        out = ir.Variable(f"{self._name}_{self._made}")
        match.insert(self._graph, ir.Node(kind, out.name, attrs, list(inputs), [out]))
        return out

    def _held(self, values: ArrayLike, dtype: np.dtype | None = None) -> gs.Tensor:
        self._made += 1
        return ir.Constant(f"{self._name}_{self._made}", np.asarray(values, dtype or self._dtype))

    def _mean(self, x: gs.Tensor, keepdims: object = 1) -> gs.Tensor:
        masked = self._op("Mul", x, self._held(self._mask))
        if self._graph.opset < AXES_INPUT:
            found = self._op("ReduceMean", masked, axes=list(self._over), keepdims=keepdims)
        else:
            over = self._held(self._over, np.dtype(np.int64))
            found = self._op("ReduceMean", masked, over, keepdims=keepdims)
        return self._op("Mul", found, self._held(self._ratio))

    def _normalized(self, node: gs.Node) -> gs.Tensor:
        x = node.inputs[0]
        centred = node.op in ("LayerNormalization", "InstanceNormalization")
        d = self._op("Sub", x, self._mean(x)) if centred else x
        epsilon = self._held(node.attrs.get("epsilon", 1e-5))
        root = self._op("Sqrt", self._op("Add", self._mean(self._op("Mul", d, d)), epsilon))
        found = self._op("Mul", self._op("Div", d, root), self._along(node, node.inputs[1]))
        if match.given(node, 2):
            found = self._op("Add", found, self._along(node, node.inputs[2]))
        return found

    def _along(self, node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
        """Return a scale or a bias so that it broadcasts; InstanceNormalization has them 1-D."""
        if node.op != "InstanceNormalization":
            return tensor
        shape = [1, -1, *[1] * (self._rank - 2)]
        return self._op("Reshape", tensor, self._held(shape, np.dtype(np.int64)))

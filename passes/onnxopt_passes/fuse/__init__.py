"""Fuse: fold what follows or precedes a layer into its weights and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxopt import match, rewrite, shapes
from onnxopt.base import Pass
from onnxopt.model import ir
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse.conv_affine import fuse_conv_affine
from onnxopt_passes.fuse.conv_bn import fuse_conv_bn
from onnxopt_passes.fuse.pad_conv import fuse_pad_conv

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_graphsurgeon as gs

    from onnxopt.base import Context
    from onnxopt.model import Model

RULES: tuple[Rule, ...] = (
    Rule("conv_bn", ("BatchNormalization",), fuse_conv_bn),
    Rule("conv_affine", ("Mul", "Div", "Add", "Sub"), fuse_conv_affine),
    Rule("pad_conv", ("Pad",), fuse_pad_conv),
)
"""In the order in which they are tried on a node."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Fold BatchNormalization, arithmetic per channel and zero Pads into the layers around them."""

    name: ClassVar[str] = "fuse"
    requires: ClassVar[tuple[str, ...]] = ("clean",)

    def run(self, model: Model, ctx: Context) -> int:
        """Apply all rules until none fires; types are inferred anew for what they made."""
        read = {id(c) for c in _weights(model) if c.outputs}
        total = 0
        while True:
            shapes.infer(model)
            made = rewrite.apply(model, RULES, ctx)
            if not made:
                break
            total += made
        _drop(model, read)
        return total


def _weights(model: Model) -> Iterator[gs.Constant]:
    for _, graph in model.graphs():
        if isinstance(graph, ir.Graph):
            yield from graph.initializers


def _drop(model: Model, read: set[int]) -> None:
    """Take those weights out of the file that were read, and no longer are."""
    dead = {id(c) for c in _weights(model) if not (c.outputs or match.fetched(c))} & read
    for _, graph in model.graphs():
        if isinstance(graph, ir.Graph) and not graph.slots:  # those hold their place
            graph.initializers = [c for c in graph.initializers if id(c) not in dead]

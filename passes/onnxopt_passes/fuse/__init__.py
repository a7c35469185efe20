"""Fuse: fold what follows or precedes a layer into its weights and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxopt import rewrite, shapes
from onnxopt.base import Pass
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse.conv_affine import fuse_conv_affine
from onnxopt_passes.fuse.conv_bn import fuse_conv_bn
from onnxopt_passes.fuse.pad_conv import fuse_pad_conv
from onnxopt_passes.fuse.zero_bias import fuse_zero_bias

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

RULES: tuple[Rule, ...] = (
    Rule("zero_bias", ("Conv", "ConvTranspose", "Gemm"), fuse_zero_bias),
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
        total = 0
        while True:
            shapes.infer(model)
            made = rewrite.apply(model, RULES, ctx)
            if not made:
                return total
            total += made


"""Fuse: exact rewrites that runtimes do not do by themselves when they load a model.

Rules are tried in the order below on each node, nodes in the order of the graph, until none
fires; then types are inferred anew, and it starts over until nothing is left. Normalisations and
activations come first, since the affine rules would take their constants away; powers and divisions
come last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxopt import resolve, rewrite
from onnxopt.base import Pass
from onnxopt.rewrite import Rule
from onnxopt_passes.fuse import (
    affine_back,
    affine_chain,
    affine_conv,
    attention,
    attention_heads,
    clip_min_max,
    conv_1d,
    double_qdq,
    einsum_matmul,
    expand_broadcast,
    group_norm,
    hard_swish,
    instance_norm,
    layer_norm,
    linear_chain,
    logistic,
    matmul_affine,
    multi_head,
    norm_order,
    opset,
    piecewise,
    powers,
    residual_gate,
    residual_sum,
    rms_norm,
    rotary,
    shared,
    shift_conv,
    silu_gelu,
    slices_split,
    soft,
    softmax_axis,
    split_conv,
    transpose_batch,
    transpose_gemm,
    tune,
    unroll,
    zero_state,
)
from onnxopt_passes.fuse.conv_affine import fuse_conv_affine
from onnxopt_passes.fuse.conv_bn import fuse_conv_bn
from onnxopt_passes.fuse.pad_conv import fuse_pad_conv
from onnxopt_passes.fuse.zero_bias import fuse_zero_bias

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

RULES: tuple[Rule, ...] = (
    *double_qdq.RULES,
    *slices_split.RULES,
    *einsum_matmul.RULES,
    *expand_broadcast.RULES,
    *transpose_batch.RULES,
    *rotary.RULES,
    *attention.RULES,
    *attention_heads.RULES,
    *transpose_gemm.RULES,
    *norm_order.RULES,
    *group_norm.RULES,
    *instance_norm.RULES,
    *layer_norm.RULES,
    *rms_norm.RULES,
    *clip_min_max.RULES,
    *hard_swish.RULES,
    *silu_gelu.RULES,
    *logistic.RULES,
    *piecewise.RULES,
    Rule("zero_bias", ("Conv", "ConvTranspose", "Gemm"), fuse_zero_bias),
    *zero_state.RULES,
    Rule("conv_bn", ("BatchNormalization",), fuse_conv_bn),
    Rule("conv_affine", ("Mul", "Div", "Add", "Sub"), fuse_conv_affine),
    Rule("pad_conv", ("Pad",), fuse_pad_conv),
    *affine_chain.RULES,
    *matmul_affine.RULES,
    *affine_back.RULES,
    *affine_conv.RULES,
    *linear_chain.RULES,
    *residual_gate.RULES,
    *powers.RULES,
)
"""Standard ops at the model's opset, and never slower where it was measured."""

EARLY: tuple[Rule, ...] = (*residual_sum.ORT_CPU_RULES, *silu_gelu.ORT_CPU_RULES)
"""For `target=ort-cpu`, before the others: each is timed on the model at hand, and kept only if
that gets faster."""

LATE: tuple[Rule, ...] = (
    *soft.ORT_CPU_RULES,
    *powers.ORT_CPU_RULES,
    *softmax_axis.ORT_CPU_RULES,
    *group_norm.ORT_CPU_RULES,
    *conv_1d.ORT_CPU_RULES,
    *split_conv.ORT_CPU_RULES,
    *shift_conv.ORT_CPU_RULES,
    *multi_head.ORT_CPU_RULES,
)
"""The same, after the others, when it is known what they left of the bytes."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Fold arithmetic into layers, and write activations in the form that runs fastest.

    Attributes:
        timed: For the target ort-cpu, whether its rules are timed on this model; if not, all
            that match are kept.
        opset: Raise the model to this opset first, where that is safe: 23 has Attention and
            RMSNormalization. 0 leaves it as it is.
        unroll: How many nodes a Loop of known length may become; 0 leaves Loops as they are.
    """

    name: ClassVar[str] = "fuse"
    requires: ClassVar[tuple[str, ...]] = ("clean",)
    followed: ClassVar[tuple[str, ...]] = ("clean",)

    timed: bool = True
    opset: int = 0
    unroll: int = 128

    def run(self, model: Model, ctx: Context) -> int:
        """Apply all rules until none fires."""
        known = shared.names(model)
        room = ctx.source_bytes or model.export().nbytes
        total = opset.raise_opset(model, ctx, self.opset)
        total += unroll.unroll_loops(model, ctx, self.unroll, room)
        total += group_norm.lower_group_norms(model, ctx, room)
        if ctx.target == "ort-cpu":
            total += _timed(model, tune.Terms(ctx, self.timed, room))
        else:
            total += _settle(model, ctx)
        if total:
            shared.share(model, known)
        return total


def _timed(model: Model, terms: tune.Terms) -> int:
    """Apply all rules, those for onnxruntime where they are faster."""
    total = sum(tune.keep_if_faster(model, rule, terms) for rule in EARLY)
    total += _settle(model, terms.ctx)
    late = sum(tune.keep_if_faster(model, rule, terms) for rule in LATE)
    return total + late + (_settle(model, terms.ctx) if late else 0)


def _settle(model: Model, ctx: Context) -> int:
    """Apply the portable rules until none fires; types are inferred anew for what they made."""
    total = 0
    while True:
        resolve.infer(model)
        made = rewrite.apply(model, RULES, ctx)
        total += made
        if not made:
            return total

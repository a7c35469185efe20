"""Quant: weights and activations in integers, where that is faster and accurate enough.

`mode=auto` decides by the model: `static` where convolutions dominate and there are calibration
samples, `dynamic` where products by constant weights do, `hybrid` where a graph has both, `weights`
where integer arithmetic does not pay or there are no samples. What integers do not serve is stored
in int8 and computed in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxopt import match
from onnxopt.base import Pass
from onnxopt_passes.quant import half, ledger, modes, options, survey, weight_only

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.model import Model

Mode = Literal["auto", "static", "dynamic", "hybrid", "weights", "fp16", "bf16"]
Weights = Literal["int8", "uint8", "int4", "uint4", "int2", "uint2", "int16"]
Activations = Literal["auto", "uint8", "int8", "int16"]
Method = Literal["auto", "minmax", "average", "percentile", "mse", "entropy"]
Cpu = Literal["auto", "x64-vnni", "x64", "arm64", "generic"]

QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
    "MatMulNBits",
    "DynamicQuantizeLSTM",
)
"""Ops that show that somebody has quantized a model before."""


@dataclass(frozen=True)
class Quant(Pass):
    """Store weights in few bits, and compute in integers where that measures faster and holds.

    Attributes:
        mode: What is quantized and how; auto decides by the model and says why.
        weights: The integers that weights are stored in.
        activations: Those of activations; auto is what the CPU is fast at.
        granularity: How many scales a weight has; auto is one a channel, blocks below 8 bits.
        block: Elements that share a scale, for granularity=block.
        symmetric: Whether weights have the zero point 0.
        method: How ranges of activations are chosen from samples; auto picks one a tensor.
        cpu: Which kernels to write for; auto asks the machine.
        recover: Whether accuracy is won back on samples, wherever the error on others falls, and
            what still costs too much is stored finer.
        timed: Whether regions that are slower in integers stay in float, by measurement.
        recipe: A file with the choice for each node: read if it exists, written if not.
    """

    name: ClassVar[str] = "quant"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("clean", "fuse")

    mode: Mode = "auto"
    weights: Weights = "int8"
    activations: Activations = "auto"
    granularity: Literal["auto", "tensor", "channel", "block"] = "auto"
    block: Literal[16, 32, 64, 128] = 32
    symmetric: bool = True
    method: Method = "auto"
    cpu: Cpu = "auto"
    recover: Literal["auto", "none"] = "auto"
    timed: bool = True
    recipe: str | None = None

    def __post_init__(self) -> None:
        """Refuse combinations that cannot be had; ValueError gives the reason."""
        reason = options.refusal(self)
        if reason:
            raise ValueError(reason)

    @property
    def adapts(self) -> bool:
        """Whether nodes are chosen by how far the score may fall: not by a recipe."""
        return self.mode not in options.HALF and self.recipe is None

    def survey(self, model: Model, ctx: Context) -> dict[str, Any]:
        """Return how sensitive the model is to quantization, node by node."""
        return survey.survey(model, self, ctx)

    def run(self, model: Model, ctx: Context) -> int:
        """Quantize in place; return the number of nodes and weights that changed."""
        found = {n.op for _, g in model.graphs() for n in g.nodes if n.op in QUANTIZED}
        match.stamp(model.graph)
        if found:
            return self._complete(model, ctx, ", ".join(sorted(found)))
        if self.mode in options.HALF:
            return half.convert(model, self, ctx)
        return modes.quantize(model, self, ctx)

    def _complete(self, model: Model, ctx: Context, ops: str) -> int:
        """Store weights that somebody else's quantization has left in float; the rest stays."""
        edits = 0
        if self.mode not in options.HALF:
            edits = weight_only.quantize_weights(model, self, ctx)
        ledger.complete(model, ctx, {})
        ctx.notes.append(
            f"it is quantized already ({ops}): that is left as it is, and {edits} weights that were"
            " in float are stored in integers; start from the float model for more"
        )
        return edits

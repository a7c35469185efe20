"""Writes exports of well-known architectures, weights drawn, for the `--zoo` of other benchmarks.

From torchvision, timm and transformers, by both of PyTorch's exporters, of opsets that users get.
Statistics and scales of normalisations are drawn as well, or there would be nothing to fold.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tables import progress

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY, LENGTH = 1000, 64
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Export:
    """How to make a file.

    Attributes:
        make: Returns the module.
        opset: Of the file.
        dynamo: By the newer of the two exporters.
        side: Height and width of an image; 0 for text.
    """

    make: Callable[[], torch.nn.Module]
    opset: int
    dynamo: bool
    side: int = 224


class Encoder(torch.nn.Module):
    """The first output of a language model, of tokens and their mask."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> Any:
        """Return [batch, length, size]."""
        return self.module(input_ids=tokens, attention_mask=mask)[0]


def vision(name: str) -> Callable[[], torch.nn.Module]:
    """Return what makes a model of torchvision."""

    def make() -> torch.nn.Module:
        import torchvision

        found: torch.nn.Module = torchvision.models.get_model(name)
        return found

    return make


def image(name: str) -> Callable[[], torch.nn.Module]:
    """Return what makes a model of timm."""

    def make() -> torch.nn.Module:
        import timm

        found: torch.nn.Module = timm.create_model(name)
        return found

    return make


def text(model: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    """Return what makes a small model of transformers."""

    def make() -> torch.nn.Module:
        import transformers

        settings = getattr(transformers, config)(**{**TEXT, **options})
        return Encoder(getattr(transformers, model)(settings))

    return make


EXPORTS = {
    "mobilenet_v2": Export(vision("mobilenet_v2"), 18, True),
    "mobilenet_v3_small": Export(vision("mobilenet_v3_small"), 17, False),
    "efficientnet_b0": Export(vision("efficientnet_b0"), 20, True),
    "resnet18": Export(vision("resnet18"), 17, False),
    "shufflenet_v2": Export(vision("shufflenet_v2_x1_0"), 18, True),
    "convnext_atto": Export(image("convnext_atto"), 20, True),
    "levit_128s": Export(image("levit_128s"), 18, True),
    "mobilevit_xxs": Export(image("mobilevit_xxs"), 17, False),
    "deit_tiny": Export(image("deit_tiny_patch16_224"), 17, False),
    "bert": Export(text("BertModel", "BertConfig"), 17, False, 0),
    "gpt2": Export(
        text("GPT2Model", "GPT2Config", n_embd=256, n_layer=4, n_head=4, use_cache=False),
        18,
        True,
        0,
    ),
    "llama": Export(
        text("LlamaModel", "LlamaConfig", num_key_value_heads=2, use_cache=False), 17, False, 0
    ),
    "phi": Export(
        text("PhiModel", "PhiConfig", partial_rotary_factor=0.5, use_cache=False), 18, True, 0
    ),
}


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """Draw what training would have changed of normalisations."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d | torch.nn.LayerNorm):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.bias, -0.3, 0.3)
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            torch.nn.init.normal_(part.running_mean, 0, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def write(export: Export, path: Path) -> None:
    """Write one file; batch, and the length of texts, are open."""
    torch.manual_seed(0)
    module = trained(export.make())
    size = 2 if export.dynamo else 1  # that exporter takes a size of 1 for a fixed one
    if export.side:
        inputs: tuple[torch.Tensor, ...] = (torch.randn(size, 3, export.side, export.side),)
        names = ["x"]
    else:
        ones = torch.ones(size, LENGTH, dtype=torch.long)
        inputs, names = (torch.randint(0, VOCABULARY, ones.shape), ones), ["tokens", "mask"]
    open_axes = {0: "batch"} if export.side else {0: "batch", 1: "length"}
    if export.dynamo:
        dims = {axis: torch.export.Dim(name, max=512) for axis, name in open_axes.items()}
        options: dict[str, Any] = {"dynamic_shapes": [dims] * len(names), "external_data": False}
    else:
        options = {"dynamic_axes": dict.fromkeys(names, open_axes)}
    torch.onnx.export(
        module,
        inputs,
        str(path),
        input_names=names,
        opset_version=export.opset,
        dynamo=export.dynamo,
        **options,
    )


def main() -> None:
    """Write those that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name, export in EXPORTS.items():
        path = folder / f"{name}.onnx"
        if not path.exists():
            progress("export", name)
            write(export, path)


if __name__ == "__main__":
    main()

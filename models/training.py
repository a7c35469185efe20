"""Prepare the data, train a network and export it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import architectures
import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

    from make import Recipe
    from numpy.typing import NDArray

SEED = 0
TEST_SAMPLES = 360
CALIBRATION_SAMPLES = 256
BATCH = 64


def build(recipe: Recipe, model: Path, calibration: Path, test: Path) -> None:
    """Make the three files of a model."""
    # More threads would add up sums in another order, and so train another model.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = write_data(recipe, calibration, test)
    network = train(recipe, images, labels)
    export(recipe, network, images[:2], model)


def parameters(recipe: Recipe) -> int:
    """Return how many numbers the training of a model adjusts."""
    network = getattr(architectures, recipe.network)()
    return sum(parameter.numel() for parameter in network.parameters())


def preprocess(pixels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Scale 8x8 images of 0..16 to 0..1 and enlarge them, bilinearly, to `shape`."""
    old, new = pixels.shape[-1], shape[-1]
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    enlarge = np.stack([np.interp(centres, np.arange(old), row) for row in np.eye(old)], axis=1)
    images = enlarge @ (pixels / 16) @ enlarge.T
    return images.reshape(-1, *shape).astype(np.float32)


def write_data(
    recipe: Recipe, calibration: Path, test: Path
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Write the calibration and the test file of a model, and return what it is trained on.

    The split is the same for every model. The calibration samples are training samples, so
    nothing that calibrates on them has seen a test sample.
    """
    digits = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        preprocess(digits.images, recipe.shape),
        digits.target.astype(np.int64),
        test_size=TEST_SAMPLES,
        random_state=SEED,
        stratify=digits.target,
    )
    np.savez_compressed(calibration, **{recipe.input: images[:CALIBRATION_SAMPLES]})
    np.savez_compressed(test, **{recipe.input: test_images, "labels": test_labels})
    return images, labels


def train(recipe: Recipe, images: NDArray[np.float32], labels: NDArray[np.int64]) -> nn.Module:
    """Train a network from scratch and return it in evaluation mode."""
    torch.manual_seed(SEED)
    network = getattr(architectures, recipe.network)()
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, epochs=recipe.epochs, steps_per_epoch=-(-len(inputs) // BATCH)
    )
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(inputs)).split(BATCH):
            logits = network(shift(inputs[chosen]))
            loss = functional.cross_entropy(logits, targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def shift(batch: torch.Tensor) -> torch.Tensor:
    """Move the images of a batch at random, together, by up to half a pixel of the original."""
    height, width = batch.shape[-2:]
    reach = width // 16
    top, left = torch.randint(2 * reach + 1, (2,)).tolist()
    padded = functional.pad(batch, (reach,) * 4)
    return padded[..., top : top + height, left : left + width]


def export(recipe: Recipe, network: nn.Module, sample: NDArray[np.float32], path: Path) -> None:
    """Write the ONNX file as the exporter makes it, with nothing folded or simplified."""
    options: dict[str, Any] = {
        "args": (torch.from_numpy(sample),),
        "f": path,
        "opset_version": recipe.opset,
        "input_names": [recipe.input],
        "output_names": ["logits"],
    }
    if recipe.exporter == "dynamo":
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            network,
            **options,
            dynamo=True,
            optimize=False,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: batch},),
        )
        strip_stack_traces(path)
    else:
        # Constant folding would fold each BatchNormalization into the convolution before it.
        torch.onnx.export(
            network,
            **options,
            dynamo=False,
            do_constant_folding=False,
            dynamic_axes={recipe.input: {0: "batch"}, "logits": {0: "batch"}},
        )


def strip_stack_traces(path: Path) -> None:
    """Drop the metadata that names files of the machine that ran the export; keep the rest."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if 'File "' not in entry.value]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)

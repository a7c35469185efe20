"""Rebuild the models of this folder from scikit-learn's digits, or check the files that are here.

python models/make.py                 train and export all models
python models/make.py digits_lstm     only this one
python models/make.py --check         compare the files with README.md; needs no torch
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        about: What the model is, for the README.
        network: The class in architectures.py.
        input: The name of the model's input.
        shape: The shape of one sample.
        exporter: `TorchScript` or `dynamo`.
        opset: The ONNX opset of the exported file.
        epochs: How many times the training reads the training data.
    """

    about: str
    network: str
    input: str
    shape: tuple[int, ...]
    exporter: str
    opset: int
    epochs: int


# 20 is the newest opset that the TorchScript exporter knows, 23 the newest that dynamo knows.
RECIPES = {
    "digits_resnet": Recipe(
        about="residual conv net",
        network="ResNet",
        input="image",
        shape=(1, 16, 16),
        exporter="TorchScript",
        opset=20,
        epochs=40,
    ),
    "digits_dscnn": Recipe(
        about="depthwise-separable conv net",
        network="DepthwiseSeparableNet",
        input="image",
        shape=(1, 32, 32),
        exporter="dynamo",
        opset=23,
        epochs=60,
    ),
    "digits_vit": Recipe(
        about="vision transformer",
        network="VisionTransformer",
        input="image",
        shape=(1, 16, 16),
        exporter="dynamo",
        opset=23,
        epochs=120,
    ),
    "digits_lstm": Recipe(
        about="LSTM over the rows of the image",
        network="RowLSTM",
        input="rows",
        shape=(8, 8),
        exporter="TorchScript",
        opset=20,
        epochs=80,
    ),
}


def files(name: str) -> tuple[Path, Path, Path]:
    """Return the paths of a model, of its calibration data and of its test data."""
    model, calibration, test = (
        FOLDER / f"{name}{suffix}" for suffix in (".onnx", ".calib.npz", ".test.npz")
    )
    return model, calibration, test


def accuracy(name: str) -> str:
    """Run a model over its test data and say how many samples it gets right."""
    model, _, test = files(name)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(test) as data:
        inputs = dict(data)
    labels = inputs.pop("labels")
    (logits,) = session.run(None, inputs)
    right = int((logits.argmax(axis=1) == labels).sum())
    return f"{right / len(labels):.2%} ({right} of {len(labels)})"


def accuracy_cells(name: str) -> str:
    """Return the first cells of a model's row in the README."""
    return f"| `{name}` | {accuracy(name)} |"


def file_row(path: Path) -> str:
    """Return a file's row in the README."""
    content = path.read_bytes()
    return f"| `{path.name}` | {len(content)} | `{hashlib.sha256(content).hexdigest()}` |"


def check(names: list[str]) -> bool:
    """Say for each model whether its files and its accuracy are those of the README."""
    readme = README.read_text(encoding="utf-8")
    good = True
    for name in names:
        # Hashes first: a file that is not the one in the README may not even load.
        same = True
        for row in map(file_row, files(name)):
            same &= report(row, readme)
        good &= same and report(accuracy_cells(name), readme)
    return good


def report(row: str, readme: str) -> bool:
    """Print whether the README has this row, and return it."""
    found = row in readme
    print("ok      " if found else "MISMATCH", row)
    return found


def write_tables() -> None:
    """Replace the tables in the README by what the files on disk say."""
    from training import parameters

    models = [
        "| model | accuracy on test | what | input | parameters | exporter |",
        "|---|---|---|---|--:|---|",
    ]
    for name, recipe in RECIPES.items():
        shape = ", ".join(map(str, recipe.shape))
        models.append(
            f"{accuracy_cells(name)} {recipe.about} | `{recipe.input}` (batch, {shape}) "
            f"| {parameters(recipe)} | {recipe.exporter}, opset {recipe.opset} |"
        )
    rows = ["| file | bytes | sha256 |", "|---|--:|---|"]
    rows += [file_row(path) for name in RECIPES for path in files(name)]
    text = README.read_text(encoding="utf-8")
    for title, table in (("models", models), ("files", rows)):
        start, end = f"<!-- {title}, by make.py -->\n", "\n<!-- end -->"
        text = re.sub(f"{start}.*?{end}", start + "\n".join(table) + end, text, flags=re.DOTALL)
    README.write_text(text, encoding="utf-8")


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--check", action="store_true", help="compare the files with README.md")
    options = parser.parse_args()
    names = options.names or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"no such model: {', '.join(unknown)}")
    if options.check:
        return 0 if check(names) else 1

    # Only building needs torch and scikit-learn.
    from training import build

    for name in names:
        build(RECIPES[name], *files(name))
        print(accuracy_cells(name))
    write_tables()
    return 0


if __name__ == "__main__":
    sys.exit(main())

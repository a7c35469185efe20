"""What is done to an image before it is fed, and its text form `imagenet:size=320:layout=nhwc`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxopt.errors import SamplesError
from onnxopt.samples.check import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

Size = int | tuple[int, int]
"""One length for both axes, or (width, height)."""

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: resize, centre crop, `(pixel * scale - mean) / std`.

    Attributes:
        resize: The length of the shorter side, as in torchvision; (width, height) for exactly
            that; None for as large as the crop needs.
        crop: What is cut out of the centre; None for the size that the input fixes, or all.
        mean: Subtracted after scaling; one value, or one a channel in the order of `color`.
        std: Divides; one value, or one a channel.
        scale: Multiplies the pixels, which go from 0 to 255.
        layout: `nchw` or `nhwc`.
        color: `rgb`, `bgr` or `gray`.

    The dtype is that of the input.
    """

    resize: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: str = "nchw"
    color: str = "rgb"

    def __post_init__(self) -> None:
        for key, value, known in (
            ("layout", self.layout, LAYOUTS),
            ("color", self.color, tuple(CHANNELS)),
        ):
            if value not in known:
                raise SamplesError(
                    f"preprocess: unknown {key} {value!r}{did_you_mean(value, known)} "
                    f"(there are: {', '.join(known)})"
                )
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.channels):
                raise SamplesError(
                    f"preprocess: {key} has {len(numbers)} values for {self.channels} channels: "
                    "give one, or one a channel"
                )
        sizes = [n for size in (self.resize, self.crop) if size is not None for n in pair(size)]
        if min(sizes, default=1) < 1 or 0 in self.std:
            raise SamplesError("preprocess: sizes must be 1 or more, and std must not be 0")

    @property
    def channels(self) -> int:
        """The number of channels."""
        return CHANNELS[self.color]

    @staticmethod
    def parse(text: str) -> Preprocess:
        """Read a preset and options: `imagenet`, `tf:size=224`, `unit:color=gray:size=28x28`.

        Options: `size` (the crop; an int resize keeps its proportion to it), `resize`, `crop`
        (`224`, `WIDTHxHEIGHT` or `none`), `mean`, `std` (`0.5` or `0.5,0.5,0.5`), `scale`,
        `layout`, `color`.

        Raises:
            SamplesError: There is no such preset or option, or a value cannot be read.
        """
        name, *options = text.strip().split(":")
        if name not in PRESETS:
            raise SamplesError(
                f"preprocess: unknown preset {name!r}{did_you_mean(name, PRESETS)} "
                f"(there are: {', '.join(PRESETS)})"
            )
        found = PRESETS[name]
        changes: dict[str, Any] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in _OPTIONS:
                raise SamplesError(
                    f"preprocess: unknown option {key!r}{did_you_mean(key, _OPTIONS)} "
                    f"(there are: {', '.join(_OPTIONS)})"
                )
            try:
                read = _OPTIONS[key](value)
            except ValueError as error:
                raise SamplesError(
                    f"preprocess: cannot read {option!r}: write it as {_EXAMPLES[key]}"
                ) from error
            changes |= _sized(found, read) if key == "size" else {key: read}
        return replace(found, **changes)


def pair(size: Size) -> tuple[int, int]:
    """Return (width, height)."""
    return (size, size) if isinstance(size, int) else size


def text(size: Size) -> str:
    """Return a size as options write it: `224` or `640x480`."""
    width, height = pair(size)
    return str(width) if width == height else f"{width}x{height}"


PRESETS = {
    "imagenet": Preprocess(
        resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "caffe": Preprocess(
        resize=256, crop=224, mean=(103.939, 116.779, 123.68), scale=1.0, color="bgr"
    ),
    "tf": Preprocess(mean=(127.5,), std=(127.5,), scale=1.0, layout="nhwc"),
    "unit": Preprocess(),
    "raw": Preprocess(scale=1.0),
}
"""imagenet: torchvision's; caffe: BGR minus the mean pixel; tf: -1 to 1, NHWC; unit: 0 to 1; raw:
0 to 255. All RGB but caffe, all NCHW but tf."""


def _sized(preset: Preprocess, size: Size | None) -> dict[str, Any]:
    """Return the changes that `size=` makes: the crop, and a resize in proportion."""
    if isinstance(preset.resize, int) and isinstance(preset.crop, int) and isinstance(size, int):
        return {"crop": size, "resize": round(size * preset.resize / preset.crop)}
    return {"crop": size, "resize": None}


def _size(text: str) -> Size | None:
    """Read `224`, `640x480` or `none`."""
    if text == "none":
        return None
    width, by, height = text.partition("x")
    return (int(width), int(height)) if by else int(width)


def _floats(text: str) -> tuple[float, ...]:
    """Read `0.5` or `0.5,0.5,0.5`."""
    return tuple(float(number) for number in text.split(","))


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "resize": _size,
    "crop": _size,
    "mean": _floats,
    "std": _floats,
    "scale": float,
    "layout": str,
    "color": str,
}

_EXAMPLES = {
    "size": "size=224 or size=640x480",
    "resize": "resize=256 or resize=640x480",
    "crop": "crop=224 or crop=640x480",
    "mean": "mean=0.5 or mean=0.5,0.5,0.5",
    "std": "std=0.5 or std=0.5,0.5,0.5",
    "scale": "scale=0.0039",
}

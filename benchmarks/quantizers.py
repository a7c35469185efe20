"""Quantizers of others, each as a function that writes what it makes of a model and samples.

`TOOLS` has those that are installed: onnxruntime's always is, NNCF, AIMET and onnxsim are looked
for. `make` runs one of them in a process of its own, and stops it when its time is over.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime import quantization as ort_quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

Maker = Callable[[Path, Path, list[dict[str, Any]]], None]
"""(source, result, samples) -> nothing; writes the result."""


class Feeds(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Samples as onnxruntime's quantizer wants them."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample."""
        return next(self.feeds, None)


def default(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what `quantize_static` makes if it is told nothing."""
    ort_quantization.quantize_static(source, result, Feeds(feeds))


def u8s8(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what onnxruntime's documentation advises for x64, after its pre-processing."""
    prepared = result.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    kind = ort_quantization.QuantType
    ort_quantization.quantize_static(
        prepared,
        result,
        Feeds(feeds),
        per_channel=True,
        activation_type=kind.QUInt8,
        weight_type=kind.QInt8,
    )


def dynamic(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what `quantize_dynamic` makes a channel."""
    ort_quantization.quantize_dynamic(source, result, per_channel=True)


def nncf(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what `nncf.quantize` makes by default: fast bias correction, for any device."""
    import nncf as tool

    onnx.save(tool.quantize(onnx.load(source), tool.Dataset(feeds)), result)


def aimet(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what AIMET's simulation exports as Q/DQ by default: 8 bits, ranges by min-max."""
    from aimet_onnx.quantsim import QuantizationSimModel

    simulated = QuantizationSimModel(onnx.load(source), dummy_input=feeds[0])
    simulated.compute_encodings(feeds)
    onnx.save(simulated.to_onnx_qdq(), result)


def onnxsim(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what onnxsim's `quantize_static` makes of its simplified model."""
    import onnxsim as tool

    simplified, _ = tool.simplify(onnx.load(source))
    onnx.save(tool.quantize_static(simplified, feeds), result)


def onnxsim_dynamic(source: Path, result: Path, feeds: list[dict[str, Any]]) -> None:
    """Make what onnxsim's `quantize_dynamic` makes of its simplified model."""
    import onnxsim as tool

    simplified, _ = tool.simplify(onnx.load(source))
    onnx.save(tool.quantize_dynamic(simplified), result)


OTHERS: dict[str, tuple[str, Maker]] = {
    "NNCF": ("nncf", nncf),
    "AIMET-ONNX": ("aimet_onnx", aimet),
    "onnxsim static": ("onnxsim", onnxsim),
    "onnxsim dynamic": ("onnxsim", onnxsim_dynamic),
}

TOOLS: dict[str, Maker] = {
    "onnxruntime static": default,
    "onnxruntime static U8S8": u8s8,
    "onnxruntime dynamic": dynamic,
    **{n: make for n, (module, make) in OTHERS.items() if importlib.util.find_spec(module)},
}
"""Name -> what makes a file."""


def make(name: str, source: Path, result: Path, feeds: list[dict[str, Any]], limit: float) -> str:
    """Let a tool write its file.

    Args:
        name: of `TOOLS`.
        source: The model.
        result: Where the file goes.
        feeds: Samples.
        limit: Seconds that it may take.

    Returns:
        "" if it has written, else why it has not.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(name, source, result, feeds, there))
    process.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(limit) else f"not done after {limit:g} s"
    except EOFError:
        process.join()
        return f"its process ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _child(name: str, source: Path, result: Path, feeds: list[dict[str, Any]], answer: Any) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            TOOLS[name](source, result, feeds)
        answer.send("")
    except Exception as e:  # noqa: BLE001  # whatever a peer raises is its result
        answer.send(f"{type(e).__name__}: {' '.join(str(e).split())[:80]}")

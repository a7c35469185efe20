"""The only door to onnxruntime: sessions from messages, and runs.

onnxruntime is imported on first use, so that `onnxopt --help` does without it.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxopt.errors import OnnxoptError
from onnxopt.model import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onnxopt.model import Exported
    from onnxopt.model.tensors import Stored

ALIGNMENT = 64
"""Bytes; kernels may read weights with aligned vector loads."""

FOLDER = "session.model_external_initializers_file_folder_path"
"""The session option that says where external data of a message in memory are."""

QUIET = 4
"""onnxruntime's log level `fatal`: what it has to say comes as an exception."""


class CannotRun(OnnxoptError):
    """onnxruntime cannot load a model, or cannot run it on these inputs."""


@cache
def _ort() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(QUIET)
    return onnxruntime


@cache
def _failures() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: a class for each of its status codes, with no common base."""
    state = _ort().capi.onnxruntime_pybind11_state
    own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def version() -> str:
    """Return onnxruntime's version."""
    return str(_ort().__version__)


@dataclass(frozen=True)
class Settings:
    """How a session is made.

    Attributes:
        optimize: ORT_ENABLE_ALL, as deployed; else ORT_DISABLE_ALL, the graph as it is written.
        threads: Threads within an operator.
        custom_ops: Libraries of custom operators.
        lean: Spend less memory instead of less time: no arena, no repacked weights.
        ordered: Run nodes in the order in which they are written, so that a tensor goes as soon as
            the nodes behind it have run.
        rewritten: Where to write the graph that onnxruntime makes of the model, a path that ends
            in `.onnx`; its weights go to a file beside it that ends in `.data`.
        profile: Prefix of the file that times of single nodes are written to.
    """

    optimize: bool = False
    threads: int = 1
    custom_ops: tuple[str, ...] = ()
    lean: bool = False
    ordered: bool = False
    rewritten: str | None = None
    profile: str | None = None


class Session:
    """A model loaded into onnxruntime.

    Attributes:
        settings: How it was loaded.
        outputs: Names of its outputs, in order.

    Args:
        exported: The model. Its large weights are handed over, not copied into a message.
        settings: How to load it.

    Raises:
        CannotRun: onnxruntime refuses the model; the message is its own, on one line.
    """

    def __init__(self, exported: Exported, settings: Settings = Settings()) -> None:  # frozen
        ort = _ort()
        self.settings = settings
        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if settings.optimize else level.ORT_DISABLE_ALL
        )
        if settings.lean:
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
            options.add_session_config_entry("session.disable_prepacking", "1")
        if settings.rewritten is not None:
            options.optimized_model_filepath = settings.rewritten
            entry = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(entry, f"{os.path.basename(settings.rewritten)}.data")
        if settings.ordered:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if settings.profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = settings.profile
        proto = exported.proto
        files.release()
        try:
            for library in settings.custom_ops:
                options.register_custom_ops_library(library)
            proto, self._held = _hand_over(proto, exported.weights, options)
            self._session = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except _failures() as e:
            raise CannotRun(_one_line(e)) from e
        self.outputs = [o.name for o in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Return all outputs by name: arrays, or lists and dicts for sequences and maps.

        Raises:
            CannotRun: The run fails.
        """
        try:
            return dict(zip(self.outputs, self._session.run(None, dict(feed)), strict=True))
        except _failures() as e:
            raise CannotRun(_one_line(e)) from e

    def profiled(self) -> str:
        """End profiling; return the path of the file with the times of all runs so far."""
        return str(self._session.end_profiling())

    def seconds(
        self, feed: Mapping[str, Any], clock: Callable[[], float] = time.perf_counter
    ) -> float:
        """Return the time of one run, by a clock; the wall's if none is given."""
        start = clock()
        self._session.run(None, feed)
        return clock() - start


def run_once(proto: onnx.ModelProto, feed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Load a small whole model, run it once as it is written, and return its outputs by name.

    Raises:
        CannotRun: onnxruntime cannot load or run it.
    """
    from onnxopt.model import Exported

    return Session(Exported(proto, {}), Settings()).run(feed or {})


NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ (?:.*?\)(?: const)? )?")
"""Status codes, and the places in onnxruntime's sources that its messages begin with."""


def _one_line(error: Exception) -> str:
    text = NOISE.sub("", " ".join(str(error).split()))
    return text if len(text) <= 300 else f"{text[:297]}..."


def _hand_over(
    proto: onnx.ModelProto, weights: Mapping[str, Stored], options: Any
) -> tuple[onnx.ModelProto, list[Any]]:
    """Give a session its weights beside the message; return the message and what must stay alive.

    Weights that are in a file are mapped from there by onnxruntime itself, which holds them in
    memory once; others are lent to it. Types that its Python API cannot take (elements below a
    byte) go into the message.
    """
    if not weights:
        return proto, []
    used = _used(proto.graph)
    inputs = {v.name for v in proto.graph.input}
    folder = next((w.origin[0].parent for w in weights.values() if w.origin is not None), None)
    if folder is not None:
        options.add_session_config_entry(FOLDER, str(folder))
    lent: dict[str, Any] = {}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.initializer[:]
    for tensor in proto.graph.initializer:
        stored = weights.get(tensor.name)
        if stored is None:
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name in used or tensor.name in inputs:
            added = copy.graph.initializer.add()
            added.CopyFrom(tensor)
            value = _give(added, stored, folder, inline=tensor.name not in used)
            if value is not None:
                lent[tensor.name] = value
    if lent:
        options.add_external_initializers(list(lent), list(lent.values()))
    return copy, list(lent.values())


def _give(tensor: TensorProto, stored: Stored, folder: Path | None, inline: bool) -> Any:
    """Point a tensor to its bytes, or put them into it; return a value that is to be lent.

    What nothing reads is put into it: onnxruntime drops it, and then misses what was lent.
    """
    if not inline and stored.origin is not None and stored.origin[0].parent == folder:
        path, offset = stored.origin
        tensor.ClearField("external_data")
        for key, entry in (("location", path.name), ("offset", offset), ("length", stored.nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
        return None
    value = None if inline else _ort_value(stored)
    if value is None:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = stored.raw.tobytes()
    return value


def _used(graph: onnx.GraphProto) -> set[str]:
    """Return all names that nodes read or graphs return, bodies included."""
    names: set[str] = set()
    stack = [graph]
    while stack:
        g = stack.pop()
        names.update(v.name for v in g.output)
        for node in g.node:
            names.update(node.input)
            for a in node.attribute:
                if a.type == onnx.AttributeProto.GRAPH:
                    stack.append(a.g)
                stack.extend(a.graphs)
    return names


def _ort_value(stored: Stored) -> Any:
    """Return weights as a value that shares their memory where it is aligned; None if it cannot."""
    raw = stored.raw
    if raw.ctypes.data % ALIGNMENT or not raw.flags.writeable:
        raw = aligned(raw)
    make = _ort().OrtValue
    if stored.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return None
    if stored.dtype.kind in "fiub" and stored.dtype.isbuiltin == 1:
        return make.ortvalue_from_numpy(raw.view(stored.dtype).reshape(stored.shape))
    bits = np.dtype(f"u{stored.dtype.itemsize}")
    return make.ortvalue_from_numpy_with_onnx_type(
        raw.view(bits).reshape(stored.shape), stored.data_type
    )


def room(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Return memory at an address at which sessions share it instead of copying it."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + nbytes].view(dtype).reshape(shape)


def aligned(values: np.ndarray) -> np.ndarray:
    """Return a copy at an address at which sessions share it instead of copying it."""
    copy = room(values.shape, values.dtype)
    copy[...] = values
    return copy

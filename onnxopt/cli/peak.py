"""A process that does nothing but load one model and run it: how long, and how much memory?

The process gets what to do from its parent, pickled, on stdin, and prints JSON. It imports
onnxruntime alone, as a program that deploys the model would.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CREATIONS = 5
"""Sessions made to time loading; the least time counts."""

CODE = "import sys; sys.path[:] = {path!r}; from onnxopt.cli.peak import main; main()"
"""The parent's path, so that the child finds what its parent found, wherever it is started."""


@dataclass(frozen=True)
class Load:
    """What a process of its own found.

    Attributes:
        seconds: The least time of making a session from the file.
        peak: Bytes that the process had in memory at most; None where the system does not say.
        idle: The same before it loaded the model.
    """

    seconds: float
    peak: int | None
    idle: int | None


def measure(path: Path, feed: dict[str, Any], threads: int, custom_ops: tuple[str, ...]) -> Load:
    """Load a model file and run it in a new process.

    Raises:
        RuntimeError: The process fails.
    """
    task = pickle.dumps((str(path.resolve()), feed, threads, custom_ops))
    code = CODE.format(path=[os.path.abspath(p) for p in sys.path])
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryDirectory() as folder:  # nothing there that an import could find
        done = subprocess.run(command, input=task, capture_output=True, cwd=folder, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    return Load(**json.loads(done.stdout))


def main() -> None:
    """Do the work of the new process, and print what it found."""
    import onnxruntime  # noqa: TID251  # a process that does what a deployment does

    path, feed, threads, custom_ops = pickle.load(sys.stdin.buffer)
    onnxruntime.set_default_logger_severity(4)
    idle = peak_bytes()
    times = []
    peak = None
    for i in range(CREATIONS):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for library in custom_ops:
            options.register_custom_ops_library(library)
        start = time.perf_counter()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        times.append(time.perf_counter() - start)
        if i == 0:
            session.run(None, feed)
            peak = peak_bytes()
        del session
    print(json.dumps({"seconds": min(times), "peak": peak, "idle": idle}))


def peak_bytes() -> int | None:
    """Return the most memory this process has had; None where the system does not say.

    Linux: `VmHWM`. Its `ru_maxrss` is no good, for it starts with what the parent had.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None

"""Runs all benchmarks one after the other, and writes results.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tables import environment

HERE = Path(__file__).parent
TITLES = {
    "rewriting": "Time of rewriting",
    "scaling": "Growth with size",
    "loading": "What the results are worth",
    "memory": "Memory",
    "conformance": "Backend cases",
}
WITH_MODELS = ("rewriting", "loading")


def section(name: str, options: argparse.Namespace) -> str:
    """Run one benchmark in a process of its own; return its part of the page."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    if name in WITH_MODELS:
        command += ["--cache", str(options.cache)]
        command += ["--zoo", str(options.zoo)] if options.zoo else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"## {TITLES[name]}\n\n`benchmarks/{name}.py`. {done.stdout.strip()}\n"


def main() -> None:
    """Run what is asked for; print it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TITLES)}; all if none")
    parser.add_argument("--cache", type=Path, required=True, help="where packages are kept")
    parser.add_argument("--zoo", type=Path, help="a folder of more .onnx files")
    parser.add_argument("--write", action="store_true", help="write results.md, all parts anew")
    options = parser.parse_args()
    parts = ["# Results", f"{environment()}. Written by `benchmarks/run.py`.\n"]
    parts += [section(name, options) for name in options.names or TITLES]
    page = "\n".join(parts)
    if options.write:
        (HERE / "results.md").write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()

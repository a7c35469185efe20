"""Runs benchmarks one after the other, and writes what they print into results.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tables import environment

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
TITLES = {
    "rewriting": "Time of rewriting",
    "scaling": "Growth with size",
    "loading": "What the results are worth",
    "latency": "Latency by target",
    "fuse": "Rules of fuse",
    "memory": "Memory",
    "calibration": "Memory of calibration",
    "conformance": "Backend cases",
}
WITH_MODELS = ("rewriting", "loading", "latency", "fuse")


def section(name: str, options: argparse.Namespace) -> str:
    """Run one benchmark in a process of its own; return what it prints, and where it ran."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    if name in WITH_MODELS:
        command += ["--cache", str(options.cache)]
        command += ["--zoo", str(options.zoo)] if options.zoo else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"`benchmarks/{name}.py`. {done.stdout.strip()}\n\n{environment()}."


def stored() -> dict[str, str]:
    """Return the sections of results.md by their titles."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    parts = text.split("\n## ")[1:]
    return {title: body.strip() for title, _, body in (p.partition("\n") for p in parts)}


def page(sections: dict[str, str]) -> str:
    """Return the whole of results.md; sections of others come last, as they are."""
    titles = [t for t in TITLES.values() if t in sections]
    titles += [t for t in sections if t not in titles]
    parts = [f"## {title}\n\n{sections[title]}\n" for title in titles]
    return "\n".join(["# Results\n", "Written by `benchmarks/run.py`; see README.md.\n", *parts])


def main() -> None:
    """Run what is asked for; print it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TITLES)}; all if none")
    parser.add_argument("--cache", type=Path, required=True, help="where packages are kept")
    parser.add_argument("--zoo", type=Path, help="a folder of more .onnx files")
    parser.add_argument("--write", action="store_true", help="put the sections into results.md")
    options = parser.parse_args()
    for name in options.names or TITLES:
        body = section(name, options)
        if options.write:
            RESULTS.write_text(page({**stored(), TITLES[name]: body}))
        else:
            print(f"## {TITLES[name]}\n\n{body}\n")


if __name__ == "__main__":
    main()

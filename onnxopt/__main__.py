"""`python -m onnxopt`."""

from __future__ import annotations

from onnxopt.cli import main

main(prog_name="onnxopt")

"""Calibration samples: every source behind one lazy, re-iterable, checked `Samples`."""

from __future__ import annotations

from onnxopt.samples.base import Feed, Sample, Samples
from onnxopt.samples.open import open_samples
from onnxopt.samples.preprocess import Preprocess
from onnxopt.samples.synthetic import synthetic

__all__ = ["Feed", "Preprocess", "Sample", "Samples", "open_samples", "synthetic"]

"""What tensors inside a model hold on samples, streamed: memory does not grow with the samples."""

from onnxopt.statistics.histogram import Histogram
from onnxopt.statistics.tap import Tap

__all__ = ["Histogram", "Tap"]

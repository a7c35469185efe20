"""What tensors inside a model hold on samples, streamed: memory does not grow with the samples."""

from onnxopt.statistics.grams import Moments, Statistics
from onnxopt.statistics.histogram import Histogram
from onnxopt.statistics.layer import Linear
from onnxopt.statistics.stages import Stages
from onnxopt.statistics.tap import Tap

__all__ = ["Histogram", "Linear", "Moments", "Stages", "Statistics", "Tap"]
